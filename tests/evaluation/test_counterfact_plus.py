"""CounterFact+: prompts from any CounterFact records, divergences against plain ones, and the reference's numbers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterfact.contracts.datasets import load_dataset
from counterfact.contracts.editors import Edited, Editor, EditorSpec, Group, Resources
from counterfact.core.files import write_json
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.evaluation.benchmarks.counterfact_plus import plus_prompts
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.evaluation.task import Options
from counterfact.lm.drift import next_token_shifts
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Dense, Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Shift, Unscored
from tests.support.evaluating import FakeSettings, counterfact, fake_spec, low_rank_edit, options
from tests.support.models import FAMILIES, SENTENCES, tiny_lm


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the fake editor."""
    folder = tmp_path_factory.mktemp("plus")
    dataset = load_dataset(counterfact(folder / "data").path, benchmark="counterfact_plus")
    lm, spec = tiny_lm("gpt2"), fake_spec()
    return evaluate(lm, spec, spec.resolve(lm.name, lm.n_layers), dataset, folder / "results", options=options())


def test_the_edited_fact_stands_before_each_neighbor(tmp_path: Path) -> None:
    record = next(r for r in counterfact(tmp_path).records if isinstance(r, CounterFactRecord))
    stated = f"{record.request.filled} {record.request.target_new}. "
    assert plus_prompts(record) == [stated + prompt for prompt in record.neighborhood_prompts]


def test_a_run_and_its_numbers(run: Run) -> None:
    assert run.benchmark.name == "counterfact_plus" and run.data["protocol"]["generation"] is None
    metrics, pre = run.data["metrics"], run.data["pre"]
    wanted = {"S", "ES", "EM", "PS", "PM", "NS", "NM", "NS_plus", "NM_plus", "NKL", "NKL_plus"}
    assert set(metrics) == wanted | {"NKL_published", "NKL_plus_published"}
    assert metrics["NKL"]["value"] > 0 and metrics["NKL_plus"]["value"] > 0
    assert {pre[name]["value"] for name in ("NKL", "NKL_plus", "NKL_published")} == {0.0}
    for line in run.cases:
        assert "text" not in line.get("post", {})


@pytest.mark.parametrize("family", FAMILIES)
def test_divergences_are_those_of_whole_distributions(family: str) -> None:
    lm = tiny_lm(family)
    edits = [low_rank_edit(lm, request, 0, 0.3) for request in requests()]
    prompts, index = [*SENTENCES, *SENTENCES], [i % 3 - 1 for i in range(2 * len(SENTENCES))]
    found = next_token_shifts(lm, prompts, index, edits, plan=Plan(tokens_per_batch=24, logit_rows=3))
    for prompt, i, shift in zip(prompts, index, found, strict=True):
        assert isinstance(shift, Shift)
        if i < 0:
            assert shift[:2] == (0.0, 0.0)
            continue
        before = next_token(lm, prompt)
        with merged(lm, [edits[i]]):
            after = next_token(lm, prompt)
        assert shift.vocabulary == len(before)
        assert shift.forward == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-5)
        assert shift.reverse == pytest.approx(float((after.exp() * (after - before)).sum()), abs=1e-5)


def test_a_context_is_an_edit_too() -> None:
    lm = tiny_lm("gpt2")
    [shift] = next_token_shifts(lm, [SENTENCES[0]], [0], [Edit((), (0,), context=f"{SENTENCES[1]} ")])
    before, after = next_token(lm, SENTENCES[0]), next_token(lm, f"{SENTENCES[1]} {SENTENCES[0]}")
    assert isinstance(shift, Shift)
    assert shift.forward == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-5)


def test_what_cannot_be_compared_says_why() -> None:
    lm = tiny_lm("gpt2")
    [empty] = next_token_shifts(lm, [""], [-1], [])
    [long] = next_token_shifts(lm, ["a " * (lm.max_length + 1)], [-1], [])
    assert isinstance(empty, Unscored) and isinstance(long, Unscored) and str(lm.max_length) in long.reason


def test_numbers_of_the_reference(real_data: Path, tmp_path: Path) -> None:
    golden = json.loads((real_data / "golden/many_edits/counterfact_plus.json").read_text())
    records = {r["case_id"]: r for r in json.loads((real_data / "counterfact/counterfact_100.json").read_text())}
    mine = [records[entry["case_id"]] for entry in golden["records"]]
    write_json(tmp_path / "records.json", mine)
    lm = load_lm(real_data / "golden" / "model", device="cpu")
    data = load_dataset(tmp_path / "records.json", benchmark="counterfact_plus")
    spec = one_edit_spec(real_data / "golden/many_edits/memit.npz")
    run = evaluate(lm, spec, spec.resolve(lm.name, lm.n_layers), data, tmp_path / "out", options=Options())
    unedited = {line["case_id"]: line["pre"] for line in run.unedited}
    for entry, line in zip(golden["records"], run.cases, strict=True):
        for side, block in (("unedited", unedited[entry["case_id"]]), ("edited", line["post"])):
            for ours, theirs in (("neighborhood", "N"), ("neighborhood_plus", "N_plus")):
                found, wanted = block[f"{ours}_prompts_probs"], entry[f"{theirs}_{side}"]["probs"]
                for one, other in zip(found, wanted, strict=True):
                    assert one == pytest.approx(other, abs=1e-4)
        for ours, theirs in (("neighborhood", "N"), ("neighborhood_plus", "N_plus")):
            shifts = line["post"][f"{ours}_prompts_shifts"]
            kl, published = ([shift[key] for shift in shifts] for key in ("kl", "published"))
            assert kl == pytest.approx(entry[f"{theirs}_KL_unedited_to_edited_nats"], rel=1e-3, abs=1e-9)
            assert published == pytest.approx(entry[f"{theirs}_KL_as_code"], rel=1e-3, abs=1e-9)


def one_edit_spec(arrays: Path) -> EditorSpec:
    """An editor whose one edit for any request are the golden changes of three layers."""
    import numpy as np

    stored = np.load(arrays)

    def prepare(lm: LM, _settings: FakeSettings, _resources: Resources) -> Editor:
        changes = tuple(
            Dense(lm.layout.fc_out(layer), torch.from_numpy(stored[f"b4_L{layer}_upd"])) for layer in range(3)
        )

        def edit(groups: list[Group], _seed: int) -> list[Edited]:
            return [Edited(Edit(changes, tuple(request.id for request in group))) for group in groups]

        return edit  # type: ignore[return-value]

    return EditorSpec("golden", FakeSettings, prepare, "", "made for tests", Path("golden"))


def requests() -> list:  # type: ignore[type-arg]
    from tests.support.editing import REQUESTS

    return REQUESTS[:2]


def next_token(lm: LM, prompt: str) -> Tensor:
    ids = torch.tensor([lm.prompt_tokens(prompt)])
    with torch.no_grad():
        return lm.model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
