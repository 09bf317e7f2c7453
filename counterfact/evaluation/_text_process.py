"""What runs in a process that measures texts; it needs no model, and imports none."""

import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from counterfact.core.records import ReferenceTexts
from counterfact.core.registry import load_plugin
from counterfact.evaluation.text_metrics import Measured, TextScorer, measure

_scorer: list[TextScorer] = []
"""Of this process: a pool's tasks share nothing else with its start."""


def start(plugins: Sequence[Path], metrics: bytes, references: ReferenceTexts | None) -> None:
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


def run(texts: Sequence[tuple[list[str | None], Mapping[str, Any]]]) -> list[Measured]:
    """Measure the texts of several records; see `measure`."""
    return measure(_scorer[0], texts)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
