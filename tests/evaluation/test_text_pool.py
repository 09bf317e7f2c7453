"""Texts measured in processes of their own: the same bytes, and a dead process costs nothing."""

import os
import signal
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset
from counterfact.core.records import ReferenceTexts
from counterfact.evaluation.chunks import Outcome
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.task import Task
from counterfact.evaluation.text_pool import TextPool
from counterfact.evaluation.worker import Worker
from counterfact.metrics.fluency import generation_entropy
from tests.support.evaluating import contents, options, references
from tests.support.faulty import FOLDER
from tests.support.models import tiny_lm
from tests.support.running import processes_of, run_with


def unit(start: int, *texts: list[str | None] | None) -> Computed:
    """A unit of records whose texts were deferred; `None` is a record that failed."""
    rewrite = {"relation_id": "P19", "target_new": {"str": "Lisbon", "id": "Q0"}}
    outcomes = []
    for case_id, mine in enumerate(texts, start):
        block = {"ngram_entropy": None, "reference_score": None, "essence_score": None, "text": mine}
        line: dict[str, Any] = {"case_id": case_id, "requested_rewrite": rewrite, "post": block}
        outcomes.append(Outcome(line if mine is not None else {"case_id": case_id, "error": {}}, {"case_id": case_id}))
    return Computed(Unit(start, start + len(texts)), outcomes)


SAID: list[str | None] = ["Jo Marlow was born in Lisbon and so was her brother.", "The ferry leaves at nine o'clock."]


def test_a_run_with_text_workers_is_the_same_bytes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    run = run_with(None, dataset, tmp_path / "results", text_workers=1)
    assert contents(tmp_path / "results") == undisturbed
    assert run.data["environment"]["wall_seconds"]["text"] > 0
    wait_until_gone(tmp_path)


def test_one_process_measures_beside_an_accelerator(dataset: Dataset, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    elsewhere = replace(lm, model=deepcopy(lm.model).to("meta"))
    processes = [Worker(one).take(Task(dataset, tmp_path, options())).text_workers for one in (lm, elsewhere)]
    assert processes == [0, 1]


def wait_until_gone(mark: Path) -> None:
    deadline = time.monotonic() + 20
    while found := processes_of(mark):
        assert time.monotonic() < deadline, f"still there: {found}"
        time.sleep(0.1)


def data_set(texts: list[dict[str, Any]] | None = None) -> Dataset:
    return Dataset("ours", "1", "counterfact", (), "", "", None if texts is None else ReferenceTexts(texts))


def test_a_process_that_dies_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    pool = TextPool(data_set(references()), "post", 1)
    killed: list[int] = []

    def units() -> Iterator[Computed]:
        for start in range(0, 12, 2):
            yield unit(start, SAID, SAID)
            if start in {2, 6}:
                for pid in processes_of(tmp_path):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    found = list(pool.measured(units()))
    assert killed
    assert [computed.unit.start for computed in found] == [*range(0, 12, 2)]
    blocks = [outcome.line["post"] for computed in found for outcome in computed.outcomes]
    assert {block["ngram_entropy"] for block in blocks} == {generation_entropy([text for text in SAID if text])}
    assert len({block["reference_score"] for block in blocks}) == 1 and 0 < blocks[0]["reference_score"] <= 1
    wait_until_gone(tmp_path)


def test_what_has_no_texts_passes_and_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    given = [unit(0, None, []), unit(2, [None, None])]
    assert list(TextPool(data_set(), "post", 1).measured(given)) == given
    assert not processes_of(tmp_path)


def test_a_text_that_cannot_be_measured_costs_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterfact.evaluation.text_metrics import TextScorer, measure

    def refuses(texts: Any) -> float:
        if "nine" in texts[0]:
            raise ArithmeticError("no entropy")
        return 1.0

    monkeypatch.setattr("counterfact.metrics.fluency.generation_entropy", refuses)
    given = unit(0, SAID[:1], SAID[1:])
    texts = [(outcome.line["post"]["text"], outcome.line["requested_rewrite"]) for outcome in given.outcomes]
    # A pool that may start no process any more measures here, where the refusal is.
    pool = TextPool(data_set(), "post", 1)
    pool._breaks = 99
    [found] = pool.measured([given])
    assert found.outcomes[0].line["post"]["ngram_entropy"] == 1.0
    assert found.outcomes[1].line == {
        "case_id": 1,
        "error": {"stage": "text", "reason": "ArithmeticError: no entropy"},
    }
    assert [one.error for one in measure(TextScorer(data_set().benchmark.text_metrics, None), texts)] == [
        None,
        "ArithmeticError: no entropy",
    ]


def test_what_was_computed_before_a_fault_is_kept() -> None:
    def units() -> Iterator[Computed]:
        yield unit(0, SAID)
        raise OSError(28, "No space left on device")

    found = []
    with pytest.raises(OSError, match="No space left"):
        for computed in TextPool(data_set(), "post", 1).measured(units()):
            found.append(computed)
    assert [computed.unit.start for computed in found] == [0]
    assert found[0].outcomes[0].line["post"]["ngram_entropy"] is not None
