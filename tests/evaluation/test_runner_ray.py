"""Ray: the same bytes as in one process, also when a worker is killed in the middle of a unit."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset
from counterfact.core.errors import BadInput
from tests.support import ROOT
from tests.support.evaluating import contents
from tests.support.faulty import FOLDER
from tests.support.running import run_with, source

pytest.importorskip("ray", reason="needs Ray: pip install 'counterfact-toolkit[ray]'")

from counterfact.evaluation.runners.ray_actors import RayRunner


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of faults that all workers see, and one Ray for all tests of this file."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER, str(folder))
        patched.setenv("PYTHONPATH", str(ROOT))
        with RayRunner(source(folder), 3, 1) as runner:
            runner.cluster.connect()
            yield folder


def test_a_worker_killed_in_a_unit_and_a_unit_that_fails(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    (faults / "kill-3").touch()
    (faults / "break-8").touch()
    with RayRunner(source(tmp_path), 1, 1) as runner:
        run = run_with(runner, dataset, tmp_path / "results")
    assert contents(tmp_path / "results") == undisturbed
    said = run.data["environment"]
    assert said["runner"]["name"] == "ray" and said["threads"] == 1
    reasons = {fault["records"]: fault["reason"] for fault in said["runner"]["faults"]}
    assert "the worker died" in reasons["2-3"] and reasons["8-9"].startswith("TypeError")
    assert said["peak_memory_bytes"]["host"] > 0
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_and_processes_for_texts(
    workers: int, dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    with RayRunner(source(tmp_path), workers, 1) as runner:
        run_with(runner, dataset, tmp_path / "results", text_workers=workers - 1)
    assert contents(tmp_path / "results") == undisturbed


@pytest.mark.soak
def test_a_unit_that_kills_every_worker_is_recorded_as_failed(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    (faults / "always-kill-11").touch()
    try:
        with RayRunner(source(tmp_path), 2, 1) as runner:
            run = run_with(runner, dataset, tmp_path / "results")
    finally:
        (faults / "always-kill-11").unlink()
    errors = {line["case_id"]: line["error"] for line in run.cases if "error" in line}
    assert sorted(errors) == [4, 10, 11]
    assert "3 attempts failed; the last one: the worker died" in errors[11]["reason"]


@pytest.mark.soak
def test_a_full_disk_in_a_worker_stops_the_run(
    dataset: Dataset, tmp_path: Path, faults: Path, undisturbed: dict[str, Any]
) -> None:
    (faults / "full-9").touch()
    with RayRunner(source(tmp_path), 1, 1) as runner:
        with pytest.raises(OSError, match="No space left"):
            run_with(runner, dataset, tmp_path / "results")
        run = run_with(runner, dataset, tmp_path / "results")
    assert contents(tmp_path / "results") == undisturbed
    assert run.data["environment"]["runner"]["faults"] == []


@pytest.mark.soak
def test_another_model_in_the_worker_is_refused(dataset: Dataset, tmp_path: Path, faults: Path) -> None:
    from dataclasses import replace

    other = replace(source(tmp_path), dtype="float64")
    with RayRunner(other, 1, 1) as runner, pytest.raises(BadInput, match="is another model here"):
        run_with(runner, dataset, tmp_path / "results")
