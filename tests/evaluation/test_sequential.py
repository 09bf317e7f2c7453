"""Edits one after another: what the editor and the measures see, what is kept of it, and that nothing is lost."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Edited, Editor, EditorSpec, Failure, Group, Resources, State
from counterfact.core.errors import BadInput
from counterfact.core.files import JsonLog, read_json, read_jsonl, write_json, write_jsonl
from counterfact.core.places import data_folder
from counterfact.core.records import Request
from counterfact.core.settings import Resolved
from counterfact.evaluation import retention, sequential
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.evaluation.condition import largest_singular_value
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.rescore import score_texts
from counterfact.evaluation.retention import has_fallen
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import Run
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Dense, Edit, LowRank
from counterfact.lm.edits.totals import added
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.sites import weight_view
from counterfact.lm.moments.second_moment import SecondMoment
from tests.evaluation.test_harness import naive_nll
from tests.support import ROOT
from tests.support.evaluating import (
    FakeSettings,
    contents,
    counterfact,
    counterfact_record,
    fake_spec,
    low_rank_edit,
    options,
    run_fake,
)
from tests.support.many_edits import ManyEdits
from tests.support.models import tiny_lm

PAIRS = Schedule(2, sequential=True, measure_after=(1, 4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return counterfact(tmp_path_factory.mktemp("data"))


def one_after_another(
    dataset: Dataset, results: Path, spec: EditorSpec | None = None, schedule: Schedule = PAIRS, **changes: Any
) -> Run:
    return run_fake(dataset, results, spec, schedule=schedule, **{"generate": False, **changes})


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    return one_after_another(dataset, tmp_path_factory.mktemp("undisturbed"), generate=True)


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> dict[str, Any]:
    return contents(run.folder.parent.parent.parent)


def lines(run: Run, folder: str) -> dict[int, dict[str, Any]]:
    return {line["case_id"]: line for line in read_jsonl(run.folder / folder / "cases.jsonl")}


# What is measured, and on which model


@pytest.mark.parametrize(
    ("folder", "case_id", "edited"),
    [
        ("immediate", 0, [0, 1]),
        ("immediate", 3, [0, 1, 2, 3]),
        ("after-00000002", 1, [0, 1]),
        ("after-00000004", 1, [0, 1, 2, 3]),
        ("", 1, [0, 1, 2, 3, 5, 6]),
        ("", 6, [0, 1, 2, 3, 5, 6]),
    ],
)
def test_values_equal_a_plain_pass_over_all_edits_so_far(
    folder: str, case_id: int, edited: list[int], run: Run, dataset: Dataset
) -> None:
    lm = tiny_lm("gpt2", "float32")
    records: Any = dataset.records
    queries = COUNTERFACT.queries(records[case_id])
    with merged(lm, [low_rank_edit(lm, records[i].request, 0) for i in edited]):
        expected = [[naive_nll(lm, query.prompt, target) for target in query.targets] for query in queries]
    block = lines(run, folder)[case_id]["post"]
    found = [list(pair.values()) for name, pairs in block.items() if name.endswith("_probs") for pair in pairs]
    assert found == [pytest.approx(pair, abs=1e-4) for pair in expected]


def test_the_editor_works_on_the_model_as_it_was_edited(dataset: Dataset, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    weight = weight_view(lm.model, lm.layout.fc_out(1))
    before, seen, written = weight.clone(), [], []

    def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit:
        seen.append(weight - before)
        written.append(len(lm.written))
        return low_rank_edit(lm, request, seed, strength)

    one_after_another(dataset, tmp_path, fake_spec(edit_one))
    total = torch.zeros_like(before)
    records: Any = dataset.records
    for change, i in zip(seen, (0, 1, 2, 3, 5, 6), strict=True):
        torch.testing.assert_close(change, total, rtol=0, atol=1e-5)
        [delta] = low_rank_edit(lm, records[i].request, 0).deltas
        total = total + delta.weight_change
    assert torch.equal(weight, before), "the model is as it was"
    assert written == [0, 1, 1, 1, 1, 1] and not lm.written, "what is there is known, and nothing afterwards"


def test_the_first_group_is_measured_as_if_it_were_alone(dataset: Dataset, tmp_path: Path, run: Run) -> None:
    alone = run_fake(dataset, tmp_path)
    one = one_after_another(dataset, tmp_path, schedule=Schedule(1, sequential=True), generate=True)
    mine, theirs = lines(one, "immediate")[0], alone.cases[0]
    assert mine["edit"] == theirs["edit"]
    sides = [line["post"]["neighborhood_prompts_probs"] for line in (mine, theirs)]
    for pair, other in zip(*sides, strict=True):
        assert pair == pytest.approx(other, abs=1e-4)


def test_passes_are_two_numbers_and_never_one(run: Run) -> None:
    sequence = run.data["sequence"]
    assert [found["edits"] for found in sequence["checkpoints"]] == [2, 4, 7]
    assert [found["step"] for found in sequence["checkpoints"]] == [1, 2, 4]
    assert sequence["checkpoints"][-1]["metrics"] == run.data["metrics"]
    assert sequence["immediate"]["metrics"]["NM"]["value"] != run.data["metrics"]["NM"]["value"]
    assert sequence["checkpoints"][0]["metrics"]["EM"]["n"] == 2 and run.data["metrics"]["EM"]["n"] == 6
    cohorts = [
        [(each["from"], each["to"], each["n"]) for each in found["cohorts"]] for found in sequence["checkpoints"]
    ]
    assert cohorts == [[(1, 2, 2)], [(1, 2, 2), (3, 4, 2)], [(1, 2, 2), (3, 4, 2), (5, 7, 3)]]
    assert run.data["protocol"]["schedule"] == {
        "edits_at_once": 2, "sequential": True, "measure_after": [1, 4], "order": 0, "keep_going": False,
    }  # fmt: skip
    assert [line["case_id"] for line in run.cases] == [*range(7)] and run.cases[4]["error"]["stage"] == "read"


def test_another_order_edits_the_same_records_otherwise(dataset: Dataset, tmp_path: Path, run: Run) -> None:
    schedules = [replace(PAIRS, order=order) for order in (1, 2)]
    one, two = (one_after_another(dataset, tmp_path, schedule=schedule) for schedule in schedules)
    orders = [list(lines(each, "immediate")) for each in (run, one, two)]
    assert len(set(map(tuple, orders))) == 3 and all(sorted(order) == [*range(7)] for order in orders)
    assert [line["case_id"] for line in one.cases] == [*range(7)]
    assert one.folder != two.folder and one.unedited_folder == two.unedited_folder
    # After the last edit the sum is the same, whatever the order; after the first it is not.
    last, first = (
        [run.cases[0]["post"], one.cases[0]["post"]],
        [lines(each, "immediate")[0]["post"] for each in (run, one)],
    )
    values = [[block["rewrite_prompts_probs"][0]["target_new"] for block in blocks] for blocks in (last, first)]
    assert values[0][0] == pytest.approx(values[0][1], abs=1e-4) and values[1][0] != pytest.approx(
        values[1][1], abs=1e-2
    )


def test_repeated_memit_keeps_what_the_reference_keeps(real_data: Path, tmp_path: Path) -> None:
    """Three groups of four genuine requests: after each, all that were edited so far score as in the authors' code."""
    golden = ManyEdits(real_data / "golden")
    editor, _, _, _ = golden.run("memit", "rep0_")
    runs = [golden.run("memit", f"rep{step}_")[3] for step in range(3)]
    by_id = {one["case_id"]: one for one in golden.given["requests"]}
    records = [
        {
            "case_id": case,
            "requested_rewrite": {
                "prompt": by_id[case]["prompt"],
                "subject": by_id[case]["subject"],
                "target_new": {"str": by_id[case]["target_new"], "id": ""},
                "target_true": {"str": by_id[case]["target_true"], "id": ""},
                "relation_id": "",
            },
            "paraphrase_prompts": by_id[case]["paraphrase_prompts"],
            "neighborhood_prompts": by_id[case]["neighborhood_prompts"],
            "attribute_prompts": [],
            "generation_prompts": [],
        }
        for run in runs
        for case in run["case_ids"]
    ]
    write_json(tmp_path / "requests.json", records)
    spec = EDITORS.get("memit")
    given = Resources(second_moments=golden.moments, context_templates=editor.templates)
    chosen = options(generate=False, schedule=Schedule(4, sequential=True, measure_after=(4, 8)))
    data, resolved = load_dataset(tmp_path / "requests.json"), Resolved(editor.settings, "golden", {})
    run = evaluate(golden.lm, spec, resolved, data, tmp_path / "results", resources=given, options=chosen)
    for folder, expected in zip(("after-00000004", "after-00000008", ""), runs, strict=True):
        found = lines(run, folder)
        assert [post["case_id"] for post in expected["post"]] == list(found)
        for post in expected["post"]:
            block = found[post["case_id"]]["post"]
            wanted = {**post, "rewrite": [post["rewrite"]]}
            for sort, values in ((sort, wanted[sort]) for sort in ("rewrite", "paraphrase", "neighborhood")):
                for mine, theirs in zip(block[f"{sort}_prompts_probs"], values, strict=True):
                    assert mine == pytest.approx(theirs, abs=5e-3)


@pytest.mark.parametrize("name", ["memit", "rome"])
def test_editors_of_the_embedded_model_go_on_from_what_was_edited(name: str, tmp_path: Path) -> None:
    lm, spec = load_lm(data_folder() / "models" / "factlm", device="cpu"), EDITORS.get(name)
    before = weight_view(lm.model, lm.layout.fc_out(2)).clone()
    layers = {"layers": [1, 2]} if name == "memit" else {"layer": 2, "covariance": False}
    resolved = spec.resolve("factlm", lm.n_layers, {**layers, "steps": 3})
    moments = {layer: SecondMoment(torch.eye(768).double(), 1, layer, "none", "made up") for layer in (1, 2)}
    given = Resources(second_moments=moments, context_templates=("{}", "It is said that {}"))
    data = counterfact(tmp_path / "data", n=4, bad=())
    schedules = Schedule(), Schedule(2, sequential=True, measure_after=(2,))
    singly, sequential = (
        evaluate(
            lm, spec, resolved, data, tmp_path / "results", resources=given,
            options=options(generate=False, schedule=schedule),
        )
        for schedule in schedules
    )  # fmt: skip
    assert torch.equal(weight_view(lm.model, lm.layout.fc_out(2)), before)
    updates = [lines(sequential, "immediate")[i]["edit"]["update_frobenius"] for i in range(4)]
    alone = [line["edit"]["update_frobenius"] for line in singly.cases]
    if name == "rome":
        # The first is made on the unedited model; what the cache holds of the others is for that model alone.
        assert updates[0] == pytest.approx(alone[0], rel=1e-6)
        assert all(a != pytest.approx(b, rel=1e-4) for a, b in zip(updates[1:], alone[1:], strict=True))
    else:
        assert updates[0] == updates[1] != updates[2] == updates[3]
    [found] = sequential.data["sequence"]["checkpoints"][-1:]
    assert list(found["weights"]) == [lm.layout.fc_out(layer) for layer in ([1, 2] if name == "memit" else [2])]
    assert found["hidden"] is None, "no fact was left alone"


# Editors with a memory, and with a last step


def remembering(step: Callable[[int, int], None] = lambda *_: None) -> EditorSpec:
    """An editor that counts what it edited and strengthens each edit by it; its last step halves everything."""

    class Remembering:
        def __init__(self, lm: LM) -> None:
            self.lm = lm

        def __call__(self, groups: Sequence[Group], seed: int, /) -> list[Edited]:
            raise AssertionError("it takes steps")

        def step(self, group: Group, seed: int, state: State | None, /) -> Edited:
            count = torch.zeros(1) if state is None else state["count"]
            step(int(count), group[0].id)
            edits = [low_rank_edit(self.lm, request, seed, 0.1 * float(count + 1)) for request in group]
            deltas = tuple(delta for edit in edits for delta in edit.deltas)
            return Edited(Edit(deltas, tuple(r.id for r in group)), state={"count": count + len(group)})

        def finish(self, edits: Sequence[Edit], /) -> Edit:
            [total] = edits
            [delta] = total.deltas
            return Edit((Dense(delta.module, delta.weight_change / 2),), total.request_ids)

    def prepare(lm: LM, settings: FakeSettings, _resources: Resources) -> Editor:
        return Remembering(lm)

    return EditorSpec("remembering", FakeSettings, prepare, "", "made for tests", Path("fake"), most_at_once=None)


def test_a_memory_is_handed_on_and_the_last_step_taken(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run = one_after_another(dataset, tmp_path, remembering(lambda *what: told.append(what)))
    assert told == [(0, 0), (2, 2), (4, 5), (5, 6)]
    lm = tiny_lm("gpt2", "float32")
    records: Any = dataset.records
    strengths = {0: 0.1, 1: 0.1, 2: 0.3, 3: 0.3, 5: 0.5, 6: 0.6}
    edits = [low_rank_edit(lm, records[i].request, 0, strength) for i, strength in strengths.items()]
    whole = sum((delta.weight_change for edit in edits for delta in edit.deltas), torch.zeros(()))
    query = COUNTERFACT.queries(records[0])[0]
    for folder, share in (("immediate", None), ("", 0.5)):
        used = edits[:2] if share is None else [Edit((Dense(edits[0].modules[0], whole * share),), ())]
        with merged(lm, used):
            expected = naive_nll(lm, query.prompt, query.targets[0])
        found = lines(run, folder)[0]["post"]["rewrite_prompts_probs"][0]["target_new"]
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_last_step_that_loses_edits_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    class Losing:
        def __call__(self, groups: Sequence[Group], seed: int, /) -> list[Edited]:
            return [Edited(low_rank_edit(tiny_lm("gpt2", "float32"), request, seed)) for [request] in groups]

        def finish(self, edits: Sequence[Edit], /) -> Edit:
            return Edit((), edits[0].request_ids)

    spec = EditorSpec("losing", FakeSettings, lambda *_: Losing(), "", "made for tests", Path("fake"))
    with pytest.raises(BadInput, match=r"last step of losing left out what was edited of transformer\.h\.1"):
        one_after_another(dataset, tmp_path, spec)


# What goes wrong


def test_a_failed_request_costs_itself_and_stays_failed(dataset: Dataset, tmp_path: Path) -> None:
    def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit | Failure:
        if request.id == 1:
            return Failure(1, "would not")
        if request.id == 2:
            raise RuntimeError("broke")
        edit = low_rank_edit(lm, request, seed, strength)
        [delta] = edit.deltas
        assert isinstance(delta, LowRank)
        return Edit((LowRank(delta.module, delta.left * math.inf, delta.right),), (3,)) if request.id == 3 else edit

    run = one_after_another(dataset, tmp_path, fake_spec(edit_one))
    reasons = {1: "would not", 2: "RuntimeError: broke", 3: "the edit is not finite"}
    for folder, there in (("immediate", reasons), ("", reasons), ("after-00000002", {1: "would not"})):
        failed = {i: line["error"]["reason"] for i, line in lines(run, folder).items() if "error" in line and i != 4}
        assert failed == there
    assert run.data["n"]["scored"] == 3 and run.data["sequence"]["collapsed_after"] is None


def ruinous(lm: LM, request: Request, seed: int, strength: float) -> Edit:
    """An edit that ruins the model at the fourth record, and mends nothing after it."""
    return low_rank_edit(lm, request, seed, 1e15 if request.id == 3 else 0.01)


def test_a_run_stops_where_the_model_collapses(dataset: Dataset, tmp_path: Path) -> None:
    run = one_after_another(dataset, tmp_path, fake_spec(ruinous))
    sequence = run.data["sequence"]
    assert sequence["collapsed_after"] == 4 and [each["edits"] for each in sequence["checkpoints"]] == [2, 4]
    assert [each["ruined"] for each in sequence["checkpoints"]] == [False, True]
    for folder in ("immediate", ""):
        errors = {i: line["error"]["reason"] for i, line in lines(run, folder).items() if "error" in line}
        assert errors[6] == errors[5] == "not edited: the model had collapsed after 4 edits" and len(errors) == 3
    assert run.data["n"]["scored"] == 4
    assert run.data["metrics"] == sequence["checkpoints"][-1]["metrics"]


@pytest.mark.parametrize(
    ("edited", "fallen"),
    [({0: 2.9, 1: 3.0}, True), ({0: 3.1, 1: 3.0}, False), ({0: 0.1, 1: None}, True), ({0: None, 1: None}, False)],
)
def test_a_model_whose_texts_lost_half_of_their_entropy_has_collapsed(
    edited: dict[int, float | None], fallen: bool, tmp_path: Path
) -> None:
    def lines(side: str, values: dict[int, float | None]) -> list[dict[str, Any]]:
        return [{"case_id": i, side: {"ngram_entropy": value}} for i, value in values.items()]

    write_jsonl(tmp_path / "pre.jsonl", lines("pre", {0: 6.0, 1: 6.0, 2: 0.0}))
    assert has_fallen(lines("post", edited), tmp_path, COUNTERFACT) == fallen


def test_a_run_stops_where_texts_tell_of_a_collapse(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_ruins(lines: Sequence[dict[str, Any]], *_: Any) -> bool:
        return len(lines) == 2

    for module in (sequential, retention):
        monkeypatch.setattr(module, "has_fallen", in_ruins)
    run = one_after_another(dataset, tmp_path, fake_spec())
    assert run.data["sequence"]["collapsed_after"] == 2 and run.data["n"]["scored"] == 2


def test_a_run_goes_on_after_a_collapse_if_told(dataset: Dataset, tmp_path: Path) -> None:
    run = one_after_another(dataset, tmp_path, fake_spec(ruinous), replace(PAIRS, keep_going=True))
    assert run.data["sequence"]["collapsed_after"] == 4 and run.data["n"]["scored"] == 6
    assert [each["edits"] for each in run.data["sequence"]["checkpoints"]] == [2, 4, 7]


def test_bad_schedules_are_refused() -> None:
    for wrong in ({"edits_at_once": 0}, {"order": 1}, {"keep_going": True}, {"measure_after": (3,)}):
        with pytest.raises(BadInput, match=r"expected edits_at_once|make the run sequential"):
            Schedule(**wrong)
    with pytest.raises(BadInput, match="measure after 1 edit or more"):
        Schedule(sequential=True, measure_after=(0,))


# What has become of the model


def test_sizes_of_changes_are_those_of_the_weights(dataset: Dataset, run: Run) -> None:
    lm = tiny_lm("gpt2", "float32")
    records: Any = dataset.records
    [module] = run.data["sequence"]["checkpoints"][0]["weights"]
    for found, edited in zip(
        run.data["sequence"]["checkpoints"], ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 5, 6]), strict=True
    ):
        before = weight_view(lm.model, module).double().clone()
        with merged(lm, [low_rank_edit(lm, records[i].request, 0) for i in edited]):
            now = weight_view(lm.model, module).double().clone()
        wanted = {
            "norm_ratio": float(now.norm() / before.norm()),
            "change": float((now - before).norm()),
            "change_spectral": float(torch.linalg.matrix_norm(now - before, 2)),
            "weight_spectral": float(torch.linalg.matrix_norm(before, 2)),
        }
        assert found["weights"][module] == pytest.approx(wanted, rel=1e-5)
    assert largest_singular_value(torch.full((2, 2), torch.nan)) is None


def known_record() -> Any:
    """A record that is not edited, whose true object is the word that the model says first."""
    lm = tiny_lm("gpt2", "float32")
    for count in range(500):
        value = counterfact_record(5)
        rewrite = value["requested_rewrite"] | {"prompt": f"{count} years ago {{}} was born in"}
        prompt = rewrite["prompt"].format(rewrite["subject"])
        token = int(lm.model(input_ids=torch.tensor([lm.prompt_tokens(prompt)])).logits[0, -1].argmax())
        word = lm.decode([token]).strip()
        if word and lm.target_tokens(word) == [token]:
            value["requested_rewrite"] = rewrite | {"target_true": {"str": word, "id": "Q9"}}
            return COUNTERFACT.parse(value, 0)
    return pytest.fail("the model knows no word")


def test_facts_that_were_never_edited_are_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    untouched: Any = (known_record(), dataset.records[5])
    part = replace(dataset, records=dataset.records[:4])
    run = one_after_another(part, tmp_path, untouched=untouched)
    found = run.data["sequence"]["checkpoints"]
    assert {each["known_facts"]["asked"] for each in found} == {1} and found[-1]["hidden"]["layer"] == 1
    assert found[0]["hidden"]["shift"] > 0 and found[0]["hidden"]["unedited_norm"] > 0
    assert run.folder != one_after_another(part, tmp_path).folder, "what is asked about is part of the run"


def test_factors_become_a_matrix_when_that_is_smaller() -> None:
    lm, total = tiny_lm("gpt2", "float32"), Edit((), ())
    kinds, changes = [], torch.zeros(())
    for i in range(30):
        edit = low_rank_edit(lm, Request(i, "{}", "Q", "x"), 0)
        total, changes = added(total, edit), changes + edit.deltas[0].weight_change
        [delta] = total.deltas
        kinds.append(type(delta))
        torch.testing.assert_close(delta.weight_change, changes)
    d_in, d_out = total.deltas[0].shape
    assert kinds.index(Dense) + 1 == math.ceil(d_in * d_out / (d_in + d_out)) and total.request_ids == (*range(30),)


# Nothing is lost


@pytest.fixture(scope="module")
def remembered(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an editor with a memory and a last step leaves, undisturbed."""
    folder = tmp_path_factory.mktemp("remembered")
    one_after_another(dataset, folder, remembering())
    return contents(folder)


@pytest.mark.parametrize("stop", range(1, 20, 3))
def test_interrupted_at_any_append_and_resumed(
    stop: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: dict[str, Any]
) -> None:
    append, calls = JsonLog.append, []

    def killed(self: JsonLog, values: Any) -> None:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        append(self, values)

    with monkeypatch.context() as patched:
        patched.setattr(JsonLog, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            one_after_another(dataset, tmp_path, remembering())
    one_after_another(dataset, tmp_path, remembering())
    assert contents(tmp_path) == remembered


def test_a_checkpoint_that_is_damaged_or_of_another_order_is_refused(
    dataset: Dataset, tmp_path: Path, run: Run
) -> None:
    results = tmp_path / "results"
    subprocess.run(["cp", "-r", str(run.folder.parent.parent.parent), str(results)], check=True)
    folder = results / run.folder.relative_to(run.folder.parent.parent.parent)
    (folder / "run.json").unlink()
    (folder / "immediate" / "cases.jsonl").unlink()
    with pytest.raises(BadInput, match="lacks lines of steps"):
        one_after_another(dataset, results, generate=True)
    said = read_json(folder / "edits" / "checkpoint.json")
    [edits, _] = said["files"]
    (folder / "edits" / edits).write_bytes(b"torn")
    with pytest.raises(BadInput, match="damaged or missing"):
        one_after_another(dataset, results, generate=True)


SCRIPT = """
import sys
from pathlib import Path
from counterfact.contracts.datasets import load_dataset
from tests.evaluation.test_sequential import one_after_another, remembering
one_after_another(load_dataset(sys.argv[1]), Path(sys.argv[2]), remembering())
"""


def sizes(results: Path) -> dict[Path, int]:
    """Every file that is there, with its size; one that is just being replaced may be missing."""
    found = {}
    for path in results.rglob("*"):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_size
    return found


def kill_and_resume(dataset: Dataset, results: Path, kills: int, expected: dict[str, Any]) -> None:
    """Kill so many processes at random moments after they began to write, letting each go on where the last one was.

    A run that comes to its end before all are killed is compared, and begun again; the last one is finished here.
    """
    moments, killed = random.Random(kills), 0
    command = [sys.executable, "-c", SCRIPT, dataset.path, str(results)]
    while killed < kills:
        before = sizes(results)
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            while process.poll() is None:
                if sizes(results) != before:
                    time.sleep(moments.uniform(0, 0.3))
                    if process.poll() is None:
                        process.send_signal(signal.SIGKILL)
                        killed += 1
                    break
                time.sleep(0.01)
        assert process.returncode in {0, -signal.SIGKILL}
        if process.returncode == 0:
            assert contents(results) == expected
            shutil.rmtree(results)
    one_after_another(dataset, results, remembering())
    assert contents(results) == expected


def test_killed_and_resumed(dataset: Dataset, tmp_path: Path, remembered: dict[str, Any]) -> None:
    kill_and_resume(dataset, tmp_path / "results", 1, remembered)


@pytest.mark.soak
def test_killed_twenty_times_and_resumed(dataset: Dataset, tmp_path: Path, remembered: dict[str, Any]) -> None:
    kill_and_resume(dataset, tmp_path / "results", 20, remembered)


def test_deferred_texts_are_filled_in_in_every_pass(
    dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = one_after_another(dataset, tmp_path, generate=True, defer_text_metrics=True)
    assert run.data["sequence"]["immediate"]["metrics"]["GE"]["value"] is None
    score_texts(run.folder)
    assert contents(tmp_path) == undisturbed


def test_a_finished_run_is_read_and_not_computed_again(dataset: Dataset, run: Run) -> None:
    again = one_after_another(
        dataset, run.folder.parent.parent.parent, fake_spec(lambda *_: pytest.fail("edited again")), generate=True
    )
    assert json.dumps(again.data) == json.dumps(run.data)
