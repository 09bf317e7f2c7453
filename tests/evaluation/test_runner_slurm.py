"""Slurm: the same bytes as in one process, by jobs that submitit runs on this machine in Slurm's place."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import Resources
from counterfact.core.errors import BadInput
from counterfact.core.texts import load_texts
from counterfact.evaluation.folder import Computed, Unit, units_of
from counterfact.evaluation.harness import evaluate_unedited
from counterfact.evaluation.runners.exchange import PREFIX, Exchange, Order
from counterfact.evaluation.runners.hand_out import preparing
from counterfact.evaluation.runners.local import LocalRunner
from counterfact.evaluation.task import Options, Task
from counterfact.evaluation.worker import Worker
from counterfact.lm.planning.batch_plan import Plan
from tests.support import ROOT
from tests.support.evaluating import LENGTH, contents
from tests.support.faulty import FOLDER
from tests.support.models import tiny_lm
from tests.support.running import CHUNK, processes_of, run_with, source

pytest.importorskip("submitit", reason="needs submitit: pip install 'counterfact-toolkit[slurm]'")

from counterfact.evaluation.runners import slurm_jobs
from counterfact.evaluation.runners.slurm_jobs import SlurmRunner


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def slurm(folder: Path, workers: int) -> SlurmRunner:
    return SlurmRunner(source(folder), workers, 1, {"cluster": "local"})


def wait_until_gone(mark: Path) -> None:
    deadline = time.monotonic() + 30
    while found := processes_of(mark):
        assert time.monotonic() < deadline, f"still there: {found}"
        time.sleep(0.1)


def test_a_job_killed_in_a_unit_and_a_unit_that_fails(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    results = tmp_path / "results"
    # The unedited values are there; an array for them is shown by the soak test.
    evaluate_unedited(
        tiny_lm("gpt2", "float32"), dataset, results, options=Options(length=LENGTH, plan=Plan(chunk=CHUNK))
    )
    (faults / "kill-3").touch()
    (faults / "break-8").touch()
    run = run_with(slurm(tmp_path, 1), dataset, results)
    assert contents(results) == undisturbed
    said = run.data["environment"]["runner"]
    reasons = {fault["records"]: fault["reason"] for fault in said["faults"]}
    assert said["name"] == "slurm"
    assert "the job died" in reasons["2-3"] and reasons["8-9"].startswith("TypeError")
    wait_until_gone(faults)


@pytest.mark.soak
def test_arrays_for_both_passes_with_processes_for_texts(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    run_with(slurm(tmp_path, 3), dataset, tmp_path / "results", text_workers=1)
    assert contents(tmp_path / "results") == undisturbed
    wait_until_gone(faults)


@pytest.mark.soak
def test_a_unit_that_kills_every_job_is_recorded_as_failed(dataset: Dataset, tmp_path: Path, faults: Path) -> None:
    (faults / "always-kill-11").touch()
    run = run_with(slurm(tmp_path, 2), dataset, tmp_path / "results")
    errors = {line["case_id"]: line["error"] for line in run.cases if "error" in line}
    assert sorted(errors) == [4, 10, 11]
    assert "3 attempts failed; the last one: the job died" in errors[11]["reason"]
    wait_until_gone(faults)


@pytest.mark.soak
def test_a_full_disk_in_a_job_stops_the_run(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    (faults / "full-9").touch()
    with pytest.raises(OSError, match="No space left"):
        run_with(slurm(tmp_path, 1), dataset, tmp_path / "results")
    run_with(None, dataset, tmp_path / "results")
    assert contents(tmp_path / "results") == undisturbed
    wait_until_gone(faults)


def test_a_job_that_prepares_for_long_is_said_to_be_waited_for(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow:
        job_id, asked = "7", 0

        def done(self) -> bool:
            self.asked += 1
            return self.asked > 3

    monkeypatch.setattr(slurm_jobs, "PATIENCE", -1.0)
    runner, task = slurm(tmp_path, 1), replace(task_of(dataset, tmp_path), editor="rome")
    monkeypatch.setattr(type(runner.cluster), "poll", 0.0)
    runner._await(Slow(), preparing(task))
    runner._await(Slow(), preparing(replace(task, resources=Resources(second_moment_texts=load_texts("embedded")))))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "still waiting for Slurm job 7"
    assert "preparing rome takes a pass over embedded texts" in second


# The exchange, without jobs


def task_of(dataset: Dataset, folder: Path) -> Task:
    return Task(dataset, folder, Options(generate=False, plan=Plan(chunk=CHUNK)))


def test_each_unit_is_claimed_once_and_again_when_released(dataset: Dataset, tmp_path: Path) -> None:
    exchange, units = Exchange(tmp_path / "exchange"), units_of(14, CHUNK)
    exchange.offer(Order(source(tmp_path), 1, task_of(dataset, tmp_path), units))
    first, second = exchange.claims(units, "one"), exchange.claims(units, "two")
    got = [next(first), next(second), next(first)]
    assert got == units[:3]
    assert exchange.claimed(units) == {units[0]: "one", units[1]: "two", units[2]: "one"}
    exchange.release(units[1])
    assert {*second} == {units[1], *units[3:]}
    assert list(first) == []
    exchange.fault(units[4], "TypeError: no")
    assert exchange.faults(units) == {units[4]: "TypeError: no"}
    exchange.release(units[4])
    assert exchange.faults(units) == {} and units[4] not in exchange.claimed(units)
    exchange.close()
    assert not exchange.is_open and list(exchange.claims(units, "late")) == []
    assert not exchange.folder.exists()


def test_what_a_killed_coordinator_left_is_taken_over(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    """All units that are asked for lie in an old exchange, so that no job is needed."""
    results = tmp_path / "results"
    run_with(LocalRunner(1), dataset, results)
    [folder] = results.rglob("pre-*")
    lines = (folder / "pre.jsonl").read_bytes()
    given = Options(length=LENGTH, plan=Plan(chunk=CHUNK))
    task = replace(task_of(dataset, folder), options=given)
    worker = Worker(tiny_lm("gpt2", "float32"))
    worker.take(task)
    old = Exchange(folder / f"{PREFIX}old")
    old.offer(Order(source(tmp_path), 1, task))
    for unit in units_of(14, CHUNK):
        old.files(task).put(worker.run(task.key, unit))

    def units() -> list[Computed]:
        return list(slurm(tmp_path, 1).run(task, [Unit(0, 2), Unit(4, 6)]))

    assert [computed.unit for computed in units()] == [Unit(0, 2), Unit(4, 6)]
    assert not old.folder.exists()
    assert lines == (folder / "pre.jsonl").read_bytes()


def test_bad_parameters_are_said_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match="no `sbatch` here"):
        SlurmRunner(source(tmp_path), 1, 1, {"partition": "gpu"})
    with pytest.raises(BadInput, match="expected slurm or local, got 'pbs'"):
        SlurmRunner(source(tmp_path), 1, 1, {"cluster": "pbs"})
