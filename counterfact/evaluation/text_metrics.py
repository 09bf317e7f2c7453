"""Metrics of one record's generated texts: while a run goes on, or afterwards where they were deferred.

They may be taken in a process that does nothing else: nothing here needs a model, or imports one.
"""

import importlib.util
import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from multiprocessing import parent_process
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from counterfact.contracts.metrics import TextMeasure, TextMetric
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl, write_jsonl
from counterfact.core.records import ReferenceTexts
from counterfact.core.registry import load_plugin


class TextScorer:
    """Measures texts by all text metrics of a benchmark, against the reference texts of one data set.

    Args:
        metrics: of the benchmark.
        references: of the data set.

    Raises:
        BadInput: a package that a metric needs is not installed.
    """

    def __init__(self, metrics: Sequence[TextMetric], references: ReferenceTexts | None) -> None:
        for metric in metrics:
            for package in metric.needs:
                if importlib.util.find_spec(package) is None:
                    raise BadInput(
                        f"{metric.symbol} needs {package}: install it, or run with --defer-text-metrics and then, "
                        "where it is installed, `counterfact score-texts RUN`"
                    )
        self._metrics = metrics
        self._references = references

    def is_unscored(self, block: Mapping[str, Any]) -> bool:
        """Whether a block has texts of which no metric was taken: they were deferred."""
        has_texts = any(text is not None for text in block.get("text") or [])
        return has_texts and all(block.get(metric.key) is None for metric in self._metrics)

    @cached_property
    def _measures(self) -> dict[str, TextMeasure]:
        return {metric.key: metric.prepare(self._references) for metric in self._metrics}

    def values(self, texts: Sequence[str | None], requested_rewrite: Mapping[str, Any]) -> dict[str, float | None]:
        """Return by key of the block what each metric gives for a record; `None` where there is no value."""
        there = [text for text in texts if text is not None]
        return {key: measure(there, requested_rewrite) for key, measure in self._measures.items()}


class Measured(NamedTuple):
    """What is measured of one record's texts."""

    values: dict[str, float | None]
    """By key of the block."""
    error: str | None
    """Why there are none."""
    seconds: float


def measure(scorer: TextScorer, texts: Sequence[tuple[list[str | None], Mapping[str, Any]]]) -> list[Measured]:
    """Measure the texts of several records, each given with its `requested_rewrite`; a fault costs its record."""
    found = []
    for mine, rewrite in texts:
        start, error = perf_counter(), None
        values: dict[str, float | None] = {}
        try:
            values = scorer.values(mine, rewrite)
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        found.append(Measured(values, error, perf_counter() - start))
    return found


def fill_texts(path: Path, side: str, texts: TextScorer | None) -> None:
    """Fill in what was deferred in a file of lines; the file is replaced as a whole."""
    if texts is None:
        return
    lines: list[dict[str, Any]] = list(read_jsonl(path))
    deferred = [line for line in lines if side in line and texts.is_unscored(line[side])]
    for line in deferred:
        line[side] |= texts.values(line[side]["text"], line["requested_rewrite"])
    if deferred:
        write_jsonl(path, lines)


_scorer: list[TextScorer] = []
"""Of this process: a pool's tasks share nothing else with its start."""


def start_process(plugins: Sequence[Path], metrics: bytes, references: ReferenceTexts | None) -> None:
    """Begin: an interruption is the parent's business, and without a parent there is nothing left to do.

    Args:
        plugins: files that may register some of the metrics.
        metrics: the text metrics, pickled: they are found once the plug-ins are loaded.
        references: of the data set.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for path in plugins:
        load_plugin(path)
    _scorer[:] = [TextScorer(pickle.loads(metrics), references)]


def measure_in_process(texts: Sequence[tuple[list[str | None], Mapping[str, Any]]]) -> list[Measured]:
    """Measure the texts of several records; see `measure`."""
    return measure(_scorer[0], texts)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
