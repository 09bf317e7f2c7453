"""A run of traces on disk: stopped, killed and gone on with, it holds the same bytes as one that was left alone."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from counterfact.core.files import write_json
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import BadFact, Fact
from counterfact.tracing.methods import causal_method
from counterfact.tracing.store import Result, array_path, find_runs, keep, load_run, run_folder, run_identity
from tests.support import ROOT, Command
from tests.support.models import tiny_folder, tiny_lm

SUBJECTS = ("Anna Ferrand", "Norway", "Harlan Reed", "Pavel Dvořák", "the ferry", "Oslo")
FACTS: list[Fact | BadFact] = [
    Fact(known_id=number, subject=subject, attribute="x", prompt=f"In Turin {subject} is a")
    for number, subject in enumerate(SUBJECTS)
]


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    lm = tiny_lm()
    settings, compute = causal_method(lm, make_corruption(lm, "s3", subjects=SUBJECTS, samples=3), window=2)
    identity = run_identity(lm, "causal", settings, FACTS)
    whole = keep(tmp_path / "whole", identity, FACTS, compute, chunk=2)
    calls: list[int] = []

    def stopped(facts: Sequence[Fact]) -> list[Result | BadFact]:
        calls.append(len(facts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(facts)

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path / "cut", identity, FACTS, stopped, chunk=2)
    folder = run_folder(tmp_path / "cut", identity)
    assert len(load_run(folder).lines) == 2
    with (folder / "facts.jsonl").open("a") as file:
        file.write('{"known_id": 2, "pro')
    again = keep(tmp_path / "cut", identity, FACTS, stopped, chunk=2)
    assert calls == [2, 2, 2, 2]
    assert again.lines == whole.lines
    for line in whole.lines:
        one, other = (array_path(run.folder, line["known_id"]).read_bytes() for run in (whole, again))
        assert one == other
    assert keep(tmp_path / "cut", identity, FACTS, stopped).lines == whole.lines
    assert len(calls) == 4, "nothing is computed twice"


def kill_while_it_writes(arguments: Sequence[object], log: Path, delay: float) -> bool:
    """Run the command in a process of its own and kill it some time after its log's next line; False if it ended."""
    before = log.stat().st_size if log.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "counterfact.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and (not log.exists() or log.stat().st_size <= before):
        time.sleep(0.01)
    time.sleep(delay)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


@pytest.mark.parametrize("times", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_a_trace_killed_at_random_moments_gives_the_same_bytes(times: int, tmp_path: Path, command: Command) -> None:
    facts = [
        Fact(known_id=place, subject=subject, attribute="x", prompt=f"{'In Turin ' * (place % 3)}{subject} is a")
        for place, subject in enumerate(SUBJECTS * 8 * times)
    ]
    write_json(tmp_path / "facts.json", [fact.model_dump() for fact in facts])
    traced = ["trace", "--facts", tmp_path / "facts.json", "--model", tiny_folder("gpt2"), "--samples", 2, "--out"]
    assert command(*traced, tmp_path / "calm")[0] == 0
    [calm] = find_runs([tmp_path / "calm"])
    folder = tmp_path / "wild" / calm.folder.relative_to(tmp_path / "calm")
    chance = random.Random(times)
    moments = [chance.uniform(0, 0.3) for _ in range(times)]
    killed = [kill_while_it_writes([*traced, tmp_path / "wild"], folder / "facts.jsonl", d) for d in moments]
    assert command(*traced, tmp_path / "wild")[0] == 0
    assert any(killed)
    names = [path.relative_to(calm.folder) for path in sorted(calm.folder.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(names) == len(facts) + 2
    for name in names:
        assert (folder / name).read_bytes() == (calm.folder / name).read_bytes(), name


def test_facts_share_the_same_batches_whatever_line_was_lost(tmp_path: Path) -> None:
    lm = tiny_lm()
    settings, compute = causal_method(lm, make_corruption(lm, "s3", subjects=SUBJECTS, samples=3), window=2)
    asked: list[list[int]] = []

    def listen(facts: Sequence[Fact]) -> list[Result | BadFact]:
        asked.append([fact.known_id for fact in facts])
        return compute(facts)

    identity = run_identity(lm, "causal", settings, FACTS)
    whole = keep(tmp_path, identity, FACTS, listen, chunk=3)
    log = whole.folder / "facts.jsonl"
    (whole.folder / "arrays/.00003.npz.x7").write_bytes(b"half of it")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:4]))
    assert keep(tmp_path, identity, FACTS, listen, chunk=3).lines == whole.lines
    assert asked == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert len(list((whole.folder / "arrays").iterdir())) == len(FACTS), "what a killed writer left is gone"
