"""Metrics of texts off the critical path: processes measure one unit while the device computes the next."""

import logging
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from counterfact.contracts.datasets import Dataset
from counterfact.core.records import ReferenceTexts
from counterfact.core.registry import loaded_plugins
from counterfact.evaluation import text_metrics
from counterfact.evaluation.chunks import Outcome
from counterfact.evaluation.folder import Computed
from counterfact.evaluation.text_metrics import Measured, TextScorer, measure

Texts = list[tuple[list[str | None], Mapping[str, Any]]]
Side = Literal["pre", "post"]
AHEAD = 2
"""Units that may wait for each process, before the device waits too."""
BREAKS = 3
"""How often a pool that lost a process is made anew."""
logger = logging.getLogger(__name__)


class TextPool:
    """Processes that measure texts; they start with the first unit that has any.

    Args:
        dataset: gives the metrics, and the reference texts.
        side: whose texts.
        workers: how many processes; 0: units pass as they are.
    """

    def __init__(self, dataset: Dataset, side: Side, workers: int) -> None:
        self._references = dataset.reference_texts
        self._metrics = dataset.benchmark.text_metrics
        self._side = side
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._breaks = 0

    def measured(self, units: Iterable[Computed]) -> Iterator[Computed]:
        """Pass units on, in their order, as soon as their texts are measured: the same bytes as measured inline.

        A process that dies costs a second measurement, in this process.
        """
        if not self._workers:
            yield from units
            return
        waiting: deque[tuple[Computed, Future[list[Measured]] | None]] = deque()
        try:
            for computed in units:
                waiting.append((computed, self._begin(computed)))
                while waiting and (_is_done(waiting[0][1]) or len(waiting) > AHEAD * self._workers):
                    yield self._finish(*waiting.popleft())
        except Exception:
            # What was computed before the fault is kept.
            yield from self._rest(waiting)
            raise
        else:
            yield from self._rest(waiting)
        finally:
            self._close()

    @property
    def _start(self) -> tuple[list[Path], bytes, ReferenceTexts | None]:
        """What a process begins with."""
        return loaded_plugins(), pickle.dumps(self._metrics), self._references

    @cached_property
    def _own(self) -> TextScorer:
        return TextScorer(self._metrics, self._references)

    def _rest(self, waiting: deque[tuple[Computed, Future[list[Measured]] | None]]) -> Iterator[Computed]:
        while waiting:
            yield self._finish(*waiting.popleft())

    def _begin(self, computed: Computed) -> Future[list[Measured]] | None:
        texts = self._texts(computed)
        if not texts or self._breaks > BREAKS:
            return None
        try:
            self._pool = self._pool or ProcessPoolExecutor(
                self._workers, get_context("spawn"), text_metrics.start_process, self._start
            )
            return self._pool.submit(text_metrics.measure_in_process, texts)
        except BrokenExecutor:
            self._lost()
            return None

    def _finish(self, computed: Computed, future: Future[list[Measured]] | None) -> Computed:
        texts = self._texts(computed)
        if not texts:
            return computed
        try:
            found = None if future is None else future.result()
        except BrokenExecutor:
            self._lost()
            found = None
        if found is None:
            found = measure(self._own, texts)
        values = iter(found)
        outcomes = [self._filled(o, next(values)) if self._has_texts(o) else o for o in computed.outcomes]
        return replace(computed, outcomes=outcomes)

    def _lost(self) -> None:
        if self._pool is not None:
            self._breaks += 1
            logger.warning("a process that measures texts died; its texts are measured in this one")
            self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _has_texts(self, outcome: Outcome) -> bool:
        return self._side in outcome.line and self._own.is_unscored(outcome.line[self._side])

    def _texts(self, computed: Computed) -> Texts:
        lines = [outcome.line for outcome in computed.outcomes if self._has_texts(outcome)]
        return [(line[self._side]["text"], line["requested_rewrite"]) for line in lines]

    def _filled(self, outcome: Outcome, measured: Measured) -> Outcome:
        line, case_id = outcome.line, outcome.line["case_id"]
        times = dict(outcome.times)
        times["text"] = round(times.get("text", 0.0) + measured.seconds, 6)
        if measured.error is not None:
            return Outcome({"case_id": case_id, "error": {"stage": "text", "reason": measured.error}}, times)
        return Outcome({**line, self._side: {**line[self._side], **measured.values}}, times)


def _is_done(future: Future[list[Measured]] | None) -> bool:
    return future is None or future.done()
