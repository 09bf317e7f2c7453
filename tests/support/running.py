"""What the tests of runners share: a data set of seven units, and a run of it by whichever runner."""

import os
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import Dataset
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.runners import Runner
from counterfact.evaluation.store import Run
from counterfact.evaluation.task import ModelSource
from counterfact.lm.planning.batch_plan import Plan
from tests.support.evaluating import counterfact, options
from tests.support.faulty import FOLDER, RESOLVED, SPEC, write_plugin
from tests.support.models import tiny_folder, tiny_lm

CHUNK = 2


def records(folder: Path) -> Dataset:
    """Fourteen records, seven units, one record that cannot be read."""
    return counterfact(folder, n=14, bad=(4,))


def source(folder: Path) -> ModelSource:
    """Where workers in other processes find the tiny model and the faulty editor."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = tiny_lm("gpt2", "float32").identity
    return ModelSource(str(tiny_folder("gpt2")), "cpu", "float32", identity, (write_plugin(folder),))


def run_with(runner: Runner | None, dataset: Dataset, results: Path, **changes: Any) -> Run:
    """Evaluate the faulty editor."""
    given = options(plan=Plan(chunk=CHUNK), runner=runner, **changes)
    return evaluate(tiny_lm("gpt2", "float32"), SPEC, RESOLVED, dataset, results, options=given)


def processes_of(faults: Path) -> list[int]:
    """Return the processes whose environment names a folder of faults, but for this one and what ends with it."""
    found = []
    mark = f"{FOLDER}={faults}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            ours = mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid()
            # The one by which `multiprocessing` cleans up lives as long as this process.
            if ours and b"resource_tracker" not in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
