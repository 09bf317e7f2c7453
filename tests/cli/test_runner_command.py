"""`evaluate --runner`: its options, and coordinators that are killed and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterfact.core.files import read_json
from tests.support import ROOT, Command
from tests.support.evaluating import contents, counterfact
from tests.support.faulty import FOLDER, write_plugin
from tests.support.models import tiny_folder
from tests.support.running import processes_of, records


def arguments(data: Path, out: Path, plugin: Path, *more: object) -> list[str]:
    model = ("--model", tiny_folder("gpt2"), "--length", 32, "--device", "cpu", "--threads", 1)
    return [str(a) for a in ("evaluate", "--dataset", data, "--out", out, *model, "--plugin", plugin, *more)]


def start(faults: Path, given: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, FOLDER: str(faults), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "counterfact.cli.main", *given], cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "--runner local is one process"),
        (["--slurm", "partition=gpu"], "--slurm goes with --runner slurm"),
        (["--runner", "ray", "--device", "cuda:1"], "a device of its own"),
        (["--runner", "slurm", "--slurm", "partition"], "expected name=value, got 'partition'"),
        (["--runner", "slurm", "--slurm", "cluster=pbs"], "expected slurm or local"),
        (["--runner", "pbs"], "pbs"),
    ],
)
def test_bad_options_end_with_2_and_a_reason(command: Command, tmp_path: Path, options: list[str], said: str) -> None:
    records(tmp_path / "data")
    given = arguments(tmp_path / "data", tmp_path / "results", write_plugin(tmp_path))
    given = [*given[: given.index("--device")], "--editor", "identity", *options]
    code, _, err = command(*given)
    assert code == 2 and said in err and "Traceback" not in err
    assert not list(tmp_path.rglob("cases.jsonl"))


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Path]:
    """A folder of faults; whoever is still there at the end of a test that failed is ended."""
    folder = tmp_path / "faults"
    folder.mkdir()
    yield folder
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)


ENGINES = [["--runner", "ray"], ["--runner", "slurm", "--slurm", "cluster=local"]]


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES, ids=["ray", "slurm"])
def test_a_killed_coordinator_leaves_nobody_and_is_gone_on_with(
    engine: list[str], tmp_path: Path, faults: Path
) -> None:
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine[1]])
    data, plugin = tmp_path / "data", write_plugin(tmp_path)
    counterfact(data, n=70, bad=(4,))  # three units of the default plan
    given = ("--editor", "faulty")
    assert start(faults, arguments(data, tmp_path / "local", plugin, *given)).wait() == 0
    (faults / "slow-40").touch()
    process = start(faults, arguments(data, tmp_path / "results", plugin, *given, *engine, "--workers", 2))
    wait_for(lambda: not (faults / "slow-40").exists(), 300)
    time.sleep(3)  # the other worker goes on to the end of its unit
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes_of(faults), 90)
    again = start(faults, arguments(data, tmp_path / "results", plugin, *given, *engine, "--workers", 2))
    assert again.wait() == 0
    assert contents(tmp_path / "results") == contents(tmp_path / "local")
    wait_for(lambda: not processes_of(faults), 60)
    [run] = (tmp_path / "results").rglob("run.json")
    assert read_json(run)["environment"]["runner"]["workers"] == 2


def wait_for(holds: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
