"""Training of hypernetworks: what it draws, how it goes on, what it refuses, when it says that nothing came out."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord
from counterfact.core.texts import TextSource
from counterfact.editing.networks import INFO, NETWORKS, TASKS, WEIGHTS, load_network, read_info, save_network
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.lm.forward.operators import bfloat16_units
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.training.examples import Sampler, validation_examples
from counterfact.training.sources import open_source
from counterfact.training.state import OLDER, STATE, load_state, save_state
from counterfact.training.steps import Step
from counterfact.training.trainer import CURVES, UNFINISHED, Options, TrainingFailed, train
from tests.support import ROOT, evaluating
from tests.support.editing import BRIEF, SMALL, Networks, Sentences
from tests.support.evaluating import counterfact
from tests.support.models import SENTENCES, tiny_lm

TEXTS = TextSource("sentences", "0", lambda: iter(SENTENCES * 3))
"""Texts of ten tokens and more."""


def settings(name: str, *overrides: str) -> Any:
    return NETWORKS.get(name).resolve("tiny", 3, ["blocks=2", *BRIEF, *SMALL[name], *overrides])


def run(lm: LM, folder: Path, name: str = "mend", *overrides: str, **options: Any) -> dict[str, Any]:
    chosen = settings(name, *overrides)
    return train(lm, name, "text", chosen, Sentences(lm), folder, options=Options(**options))


def bytes_of(folder: Path) -> dict[str, Any]:
    """Everything that equal trainings share."""
    info = json.loads((folder / INFO).read_text())
    del info["environment"]
    return {"info": info, WEIGHTS: (folder / WEIGHTS).read_bytes(), CURVES: (folder / CURVES).read_bytes()}


class Interrupted(Exception):
    """Raised by a watcher to stop a training."""


@pytest.mark.parametrize("name", ["mend", "ke"])
def test_training_lowers_the_loss_and_is_repeatable(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    before = {key: tensor.clone() for key, tensor in lm.model.state_dict().items()}
    info = run(lm, tmp_path / "a", name)
    assert info["validation"]["edit"] < 0.7 * info["untrained"]["edit"]
    assert info["step"] % 10 == 0 and info["steps"] == 30 and info["skipped"] == 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in lm.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    run(lm, tmp_path / "b", name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {INFO, WEIGHTS, CURVES}


@pytest.mark.parametrize("name", ["mend", "ke"])
@pytest.mark.parametrize("stop", [1, 10, 17, 29])
def test_an_interrupted_training_goes_on_to_the_same_bytes(name: str, stop: int, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    run(lm, tmp_path / "whole", name)

    def interrupt(line: Any) -> None:
        if line["step"] == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(lm, tmp_path / "parts", name, watch=interrupt)
    assert not (tmp_path / "parts" / INFO).exists()
    run(lm, tmp_path / "parts", name)
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_finished_training_is_read_not_repeated(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    first = run(lm, tmp_path)
    stamp = (tmp_path / WEIGHTS).stat().st_mtime_ns
    assert run(lm, tmp_path) == first
    assert (tmp_path / WEIGHTS).stat().st_mtime_ns == stamp
    for other, moved in (("rank=9", r"settings\.rank"), ("steps=40", r"settings\.steps")):
        with pytest.raises(BadInput, match=moved):
            run(lm, tmp_path, "mend", other)
    with pytest.raises(BadInput, match="seed"):
        run(lm, tmp_path, seed=1)
    again = run(lm, tmp_path, "mend", "rank=9", restart=True)
    assert again["settings"]["rank"] == 9


def test_accumulated_steps_are_one_large_step() -> None:
    lm = tiny_lm("gpt2")
    source, chosen = Sentences(lm), settings("ke").settings
    sampler = Sampler(source, 0)
    examples = [sampler.example(number) for number in range(6)]

    def gradients(sizes: list[int]) -> list[torch.Tensor]:
        network = NETWORKS.get("ke").build(lm, chosen)
        step, start = Step(lm, network), 0
        for size in sizes:
            (step.losses(examples[start : start + size]).total(chosen).mean() * size / 6).backward()  # type: ignore[no-untyped-call]
            start += size
        return [p.grad for p in network.parameters() if p.grad is not None]

    for one, other in zip(gradients([6]), gradients([1, 2, 3]), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["mend", "ke"])
def test_mixed_precision_trains_a_network_in_full_precision(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    full, half = run(lm, tmp_path / "full", name), run(lm, tmp_path / "half", name, autocast=True)
    assert half["autocast"] and half["validation"]["total"] == pytest.approx(full["validation"]["total"], rel=0.1)
    assert half["untrained"]["edit"] != full["untrained"]["edit"]
    network = load_network(tmp_path / "half", lm, name, "text").network
    assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())


@pytest.mark.skipif(not bfloat16_units(), reason="this processor has no units that multiply bfloat16; others have")
def test_a_precision_holds_in_training_and_is_part_of_it(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    strict, rounded = run(lm, tmp_path / "strict"), run(replace(lm, precision="bf16"), tmp_path / "rounded")
    assert rounded["model"]["dtype"] == "float32, bf16 products"
    assert rounded["untrained"]["edit"] != strict["untrained"]["edit"]
    assert rounded["validation"]["total"] == pytest.approx(strict["validation"]["total"], rel=0.1)
    with pytest.raises(BadInput, match=r"was trained with another model\.dtype"):
        run(lm, tmp_path / "rounded")


def test_autocast_beside_a_precision_is_refused(tmp_path: Path) -> None:
    lm = replace(tiny_lm("gpt2", "float32"), precision="tf32")
    with pytest.raises(BadInput, match="autocast and a precision of tf32 say two things of the same products"):
        run(lm, tmp_path, autocast=True)


def test_a_damaged_state_costs_only_what_came_after_the_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save_state(tmp_path, {"step": step, "tensor": torch.full((3,), float(step))})
    found = load_state(tmp_path)
    assert found is not None and found["step"] == 2
    data = bytearray((tmp_path / STATE).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / STATE).write_bytes(data)
    found = load_state(tmp_path)
    assert found is not None and found["step"] == 1 and "damaged" in caplog.text
    (tmp_path / STATE).write_bytes(b"")
    assert (load_state(tmp_path) or {})["step"] == 1
    assert load_state(tmp_path / "nothing") is None


def test_a_training_goes_on_from_the_older_state_to_the_same_bytes(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    run(lm, tmp_path / "whole")

    def interrupt(line: Any) -> None:
        if line["step"] == 25:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(lm, tmp_path / "parts", watch=interrupt)
    state = tmp_path / "parts" / STATE
    state.write_bytes(state.read_bytes()[:-7])
    run(lm, tmp_path / "parts")
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mend", ["learning_rate=0.03", "rate_learning_rate=0.3"]),
        ("mend", ["learning_rate=30.0", "rate_learning_rate=30.0"]),
        ("ke", ["learning_rate=1.0"]),
    ],
)
def test_a_training_that_diverges_ends_with_a_verdict_and_no_network(
    name: str, overrides: list[str], tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match="no network came out"):
        run(tiny_lm("gpt2", "float32"), tmp_path, name, *overrides)
    assert not (tmp_path / INFO).exists() and not (tmp_path / WEIGHTS).exists()


def test_gradients_that_are_not_finite_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gpt2", "float32")
    calls = 0
    losses = Step.losses

    def sometimes(self: Step, examples: Any, *, observe: bool = False) -> Any:
        nonlocal calls
        found = losses(self, examples, observe=observe)
        calls += observe
        if observe and calls % 7 == 3:
            found.edit.mul_(torch.nan)
        return found

    monkeypatch.setattr(Step, "losses", sometimes)
    info = run(lm, tmp_path)
    assert info["skipped"] == 4
    network = load_network(tmp_path, lm, "mend", "text").network
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def test_networks_are_refused_where_they_do_not_belong(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    run(lm, tmp_path)
    load_network(tmp_path, lm, "mend", "text")
    with pytest.raises(BadInput, match="expected a network of editor 'ke', got 'mend'"):
        load_network(tmp_path, lm, "ke", "text")
    with pytest.raises(BadInput, match="task 'zsre', got 'text'"):
        load_network(tmp_path, lm, "mend", "zsre")
    with pytest.raises(BadInput, match=r"was trained for .* not for"):
        load_network(tmp_path, tiny_lm("llama", "float32"), "mend", "text")
    info = json.loads((tmp_path / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps({**info, "settings": {**info["settings"], "rank": 9}}))
    with pytest.raises(BadInput, match="does not fit"):
        load_network(tmp_path, lm, "mend", "text")
    (tmp_path / INFO).write_text(json.dumps({**info, "format": 99}))
    with pytest.raises(BadInput, match="format 1"):
        read_info(tmp_path)
    (tmp_path / INFO).write_text(json.dumps(info))
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        load_network(tmp_path, lm, "mend", "text")
    with pytest.raises(BadInput, match="no trained network"):
        load_network(tmp_path / "none", lm, "mend", "text")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from counterfact.builders.counterfact import build

    out = tmp_path_factory.mktemp("records") / "counterfact"
    build(out, relations=["P103", "P106"])
    return load_dataset(out)


@cache
def factlm() -> LM:
    """The embedded model, whose tokens fit the embedded records."""
    return load_lm(data_folder() / "models/factlm", device="cpu")


def source_for(records: Dataset | None, task: Any, **changes: Any) -> Any:
    chosen = settings("mend", "text_tokens=8", "locality_tokens=12", "most_text_labels=3", "fewest_text_labels=1")
    given = {"dataset": records, "texts": TEXTS, "reserved": 20, **changes}
    return open_source(factlm(), task, chosen.settings, **given)


@pytest.mark.parametrize("task", ["counterfact", "neighbors"])
def test_no_subject_that_is_evaluated_on_is_trained_on(task: Any, records: Dataset) -> None:
    source = source_for(records, task)
    reserved = {record.request.subject for record in records.records[:20]}  # type: ignore[union-attr]
    trained = {item.subject for item in source.train}
    held = {item.subject for item in source.validation}
    assert trained and held and not trained & held and not (trained | held) & reserved
    said = source.describe()
    assert said["reserved"] == 20 and set(said["record_ids"]) == {i.case_id for i in source.train + source.validation}
    assert min(said["record_ids"]) >= 20


def test_nothing_left_to_train_on_is_refused(records: Dataset) -> None:
    with pytest.raises(BadInput, match="0 records are left"):
        source_for(records, "counterfact", reserved=10_000)
    with pytest.raises(BadInput, match="needs zsre records, got counterfact"):
        source_for(records, "zsre")
    with pytest.raises(BadInput, match="needs plain texts"):
        source_for(records, "counterfact", texts=None)
    with pytest.raises(BadInput, match="expected 10 at least"):
        source_for(records, "text", texts=TextSource("few", "0", lambda: iter(SENTENCES[:2])))


def test_examples_are_what_each_task_says(records: Dataset) -> None:
    lm = factlm()
    zsre = load_dataset(data_folder() / "zsre/train.json", 60)
    by_id = {record.case_id: record for record in records.records}
    for task in TASKS:
        source = source_for(zsre if task == "zsre" else records, task)
        sampler, outers = Sampler(source, 0), 0
        for number in range(60):
            example = sampler.example(number)
            assert example == Sampler(source, 0).example(number)
            assert example.edit[-example.labels :] == example.outer[-example.labels :]
            assert len(example.outer) > example.labels and len(example.locality) > 1
            outers += example.outer != example.edit
        assert 10 < outers < 60
        assert validation_examples(source, 5, 0) == validation_examples(source, 5, 0)
        if task == "neighbors":
            item = source.train[0]
            record: Any = by_id[item.case_id]
            true = record.requested_rewrite.target_true.text
            assert [lm.decode(ids) for ids in item.neighborhood] == [f"{p} {true}" for p in record.neighborhood_prompts]
        if task == "zsre":
            item = source.train[0]
            wrong: Any = zsre.records[item.case_id]
            assert lm.decode(item.target).strip() == wrong.alt != wrong.answers[0]


def test_records_without_a_wrong_answer_are_left_out_and_counted(records: Dataset, tmp_path: Path) -> None:
    values = json.loads((data_folder() / "zsre/train.json").read_text())[:80]
    for value in values[60:70]:
        del value["alt"]
    (tmp_path / "zsre.json").write_text(json.dumps(values))
    source = source_for(load_dataset(tmp_path / "zsre.json"), "zsre")
    assert source.dropped["has no wrong answer (`alt`) to learn to edit in"] == 10
    assert len(source.train) + len(source.validation) == len(values) - sum(source.dropped.values()) - source.reserved
    for value in values:
        value.pop("alt", None)
    (tmp_path / "zsre.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match="no wrong answer"):
        source_for(load_dataset(tmp_path / "zsre.json"), "zsre")


def test_every_item_is_drawn_once_in_a_round(records: Dataset) -> None:
    source = source_for(records, "counterfact")
    sampler, count = Sampler(source, 3), len(source.train)
    rounds = [[tuple(sampler.example(turn * count + i).edit) for i in range(count)] for turn in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1]


def test_records_that_were_trained_on_are_refused_or_marked(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    data = counterfact(tmp_path / "data")
    seen = [record.request for record in data.records if not isinstance(record, BadRecord)][2:5]
    trained = load_network(Networks(lm)["mend_cf"], lm, "mend", "counterfact")
    about = {"record_ids": [it.id for it in seen], "requests": [[it.prompt, it.subject] for it in seen]}
    save_network(tmp_path / "network", trained.network, {**trained.info, "trained_on": about})
    spec = EDITORS.get("mend_cf")
    resources = Resources(networks={"mend_cf": tmp_path / "network"}, cache=tmp_path)

    def measure(results: str, **changes: Any) -> Run:
        chosen = evaluating.options(generate=False, **changes)
        return evaluate(
            lm, spec, spec.resolve(lm.name, lm.n_layers), data, tmp_path / results, resources=resources, options=chosen
        )

    with pytest.raises(BadInput, match=rf"trained on 3 of these 6 records \(first: {seen[0].id}\)"):
        measure("refused")
    run = measure("forced", trained_records=True)
    assert run.data["editor"]["seen_in_training"] == 3 and run.label == "mend_cf (trained on 3 of these records)"
    assert run.data["n"]["scored"] == 6
    network = run.data["editor"]["provenance"]["network"]
    assert network["task"] == "counterfact" and network["weights_sha256"] == trained.info["weights_sha256"]
    other = json.loads((tmp_path / "network" / INFO).read_text())
    assert run.data["editor"]["resources"]["network"] == other["weights_sha256"]


CHILD = """
import sys
from pathlib import Path
from tests.training.test_training import run
from tests.support.models import tiny_lm
run(tiny_lm("gpt2", "float32"), Path(sys.argv[1]), "mend", "validate_every=3")
"""


def killed_until_done(folder: Path, rng: random.Random, kills: int) -> int:
    """Train in a process that is killed at random moments, and finish here; return how often it was."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = 0
    while done < kills:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, env=environment)
        # The import of torch takes a while; the training itself is what is to be hit.
        while child.poll() is None and not (folder / UNFINISHED).exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
            done += 1
        elif (folder / INFO).exists():
            return done
    run(tiny_lm("gpt2", "float32"), folder, "mend", "validate_every=3")
    return done


def test_a_training_that_is_killed_right_after_its_end_leaves_nothing_behind(tmp_path: Path) -> None:
    run(tiny_lm("gpt2", "float32"), tmp_path, "mend", "validate_every=3")
    whole = {path.name for path in tmp_path.iterdir()}
    for name in (UNFINISHED, STATE, OLDER):
        (tmp_path / name).write_text("{}")
    run(tiny_lm("gpt2", "float32"), tmp_path, "mend", "validate_every=3")
    assert {path.name for path in tmp_path.iterdir()} == whole


@pytest.mark.parametrize("kills", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_a_training_that_is_killed_ends_in_the_same_bytes(kills: int, tmp_path: Path) -> None:
    run(tiny_lm("gpt2", "float32"), tmp_path / "whole", "mend", "validate_every=3")
    times, rng = 0, random.Random(kills)
    for number in range(kills):
        folder = tmp_path / f"killed-{number}"
        times += killed_until_done(folder, rng, kills)
        assert bytes_of(folder) == bytes_of(tmp_path / "whole")
        if times >= kills:
            break
    assert times >= 1
