"""Units: the same bytes in whatever order they finish, bounded attempts, and files that survive a kill."""

import errno
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import JsonLog, one_writer, read_jsonl
from counterfact.core.records import Request
from counterfact.evaluation.folder import Computed, Unit, UnitFiles
from counterfact.evaluation.runners.hand_out import ATTEMPTS
from counterfact.evaluation.runners.local import LocalRunner
from counterfact.evaluation.task import Prepared, Task
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from tests.support.evaluating import contents, fake_spec, low_rank_edit, run_fake
from tests.support.faulty import FOLDER
from tests.support.running import run_with

UNITS = 7


class Anyhow(LocalRunner):
    """Computes units in a random order, and stops after some of them."""

    def __init__(self, seed: int, stop: BaseException | None = None, after: int = 99) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.stop = stop
        self.left = after
        self.computed: list[Unit] = []

    def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
        shuffled = list(units)
        self.random.shuffle(shuffled)
        for computed in super().run(task, shuffled):
            if self.left == 0 and self.stop is not None:
                raise self.stop
            self.left -= 1
            self.computed.append(computed.unit)
            yield computed


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order_the_same_bytes(seed: int, dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run = run_with(Anyhow(seed), dataset, tmp_path)
    assert contents(tmp_path) == undisturbed
    assert [line["case_id"] for line in read_jsonl(run.folder / "timings.jsonl")] == [*range(14)]


@pytest.mark.parametrize("after", [1, 4, 9, 12])
def test_interrupted_out_of_order_and_gone_on_with(
    after: int, dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    first, second = Anyhow(after, KeyboardInterrupt(), after), Anyhow(0)
    with pytest.raises(KeyboardInterrupt):
        run_with(first, dataset, tmp_path)
    told: list[int] = []
    run_with(second, dataset, tmp_path, progress=lambda stage, done, total: told.append(done))
    assert contents(tmp_path) == undisturbed
    assert len(first.computed) == after and len(second.computed) == 2 * UNITS - after


@pytest.mark.parametrize("damage", ["", "{", '{"unit": [0, 2], "outcomes": []}', "[]", "null"])
def test_a_damaged_unit_is_computed_again(
    damage: str, dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_with(Anyhow(5, KeyboardInterrupt(), 5), dataset, tmp_path)
    waiting = sorted(tmp_path.rglob("units/*.json"))
    assert waiting
    waiting[0].write_text(damage)
    run_with(None, dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_unit_of_other_records_is_not_taken(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_with(Anyhow(5, KeyboardInterrupt(), 5), dataset, tmp_path)
    path = sorted(tmp_path.rglob("units/*.json"))[0]
    start, stop = json.loads(path.read_text())["unit"]
    files = UnitFiles(path.parent, dataset.records)
    assert files.get(Unit(start, stop)) is not None
    assert files.get(Unit(start, stop + 1)) is None
    assert UnitFiles(path.parent, dataset.records[1:]).get(Unit(start, stop)) is None


def test_a_full_disk_keeps_units_that_wait(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    runner = Anyhow(5, None)
    with monkeypatch.context() as patched:
        append, calls = JsonLog.append, []

        def filling(self: JsonLog, values: Any) -> None:
            calls.append(self.path.name)
            if calls.count("cases.jsonl") == 2:
                full()
            append(self, values)

        patched.setattr(JsonLog, "append", filling)
        with pytest.raises(OSError, match=r"the disk is full; \d+ of 14 records are finished and kept"):
            run_with(runner, dataset, tmp_path)
    again = Anyhow(0)
    run_with(again, dataset, tmp_path)
    # The line that could not be written was that of a unit with a file of its own: nothing is computed twice.
    assert len(runner.computed) + len(again.computed) == 2 * UNITS
    assert contents(tmp_path) == undisturbed


def test_a_full_disk_where_a_unit_waits(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr("counterfact.evaluation.folder.write_atomic", full)
        with pytest.raises(OSError, match="the disk is full"):
            run_with(Anyhow(1), dataset, tmp_path)
    run_with(None, dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_runner_that_forgets_units_is_not_believed(dataset: Dataset, tmp_path: Path) -> None:
    class Forgetful(LocalRunner):
        def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
            return super().run(task, units[:-1])

    with pytest.raises(Failed, match="did not come back"):
        run_with(Forgetful(), dataset, tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_a_unit_that_fails_is_tried_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "break-5").touch()
    run = run_with(None, dataset, tmp_path / "results")
    assert contents(tmp_path / "results") == undisturbed
    [fault] = run.data["environment"]["runner"]["faults"]
    assert fault["records"] == "4-5" and fault["reason"].startswith("TypeError") and fault["n"] == 1


def test_a_unit_that_fails_every_time_is_recorded_as_failed(dataset: Dataset, tmp_path: Path) -> None:
    calls: list[int] = []

    def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit:
        edit = low_rank_edit(lm, request, seed, strength)
        if request.id != 3:
            return edit
        calls.append(1)
        return Edit(edit.deltas, edit.request_ids, {"note": "no number"})  # type: ignore[dict-item]

    run = run_fake(dataset, tmp_path, fake_spec(edit_one))
    assert len(calls) == ATTEMPTS
    errors = {line["case_id"]: line["error"] for line in run.cases if "error" in line}
    assert sorted(errors) == [3, 4, 5]
    assert errors[5]["stage"] == "unit" and errors[5]["reason"].startswith("3 attempts failed; the last one: TypeError")
    assert run.data["n"]["failed"] == 3


def test_the_second_of_two_runs_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    run = run_with(None, dataset, tmp_path)
    with one_writer(run.folder, wait=False), pytest.raises(BadInput, match="another process is writing"):
        run_with(Anyhow(0), dataset, tmp_path)


def test_workers_that_prepared_something_else_are_refused() -> None:
    machine = {"threads": 1, "packages": {"torch": "2"}}
    from counterfact.lm.planning.batch_plan import Plan

    first = Prepared(Plan(), {"context_templates_hash": "a"}, machine=machine)
    first.check(Prepared(Plan(), {"context_templates_hash": "a"}, machine=machine), "here")
    first.check(Prepared(Plan(), {}, machine=machine), "a pass of the unedited model")
    for other in (
        Prepared(Plan(chunk=1), first.provenance, machine=machine),
        Prepared(Plan(), {"context_templates_hash": "b"}, machine=machine),
        Prepared(Plan(), first.provenance, machine={**machine, "threads": 2}),
    ):
        with pytest.raises(BadInput, match="prepared another"):
            first.check(other, "node7")
