"""One worker, in this process."""

import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from counterfact.contracts.editors import EditorSpec
from counterfact.core.files import disk_full
from counterfact.evaluation.asking import Job
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.runners.hand_out import Attempts, Fault, hand_out, summary_of_faults
from counterfact.evaluation.task import Prepared, Task
from counterfact.evaluation.worker import Worker
from counterfact.lm.model.language_model import LM

logger = logging.getLogger(__name__)


class LocalRunner:
    """Computes units one after the other.

    Args:
        threads: of every product; `None`: as many as torch has.
    """

    name = "local"
    text_processes = 1

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._worker: Worker | None = None
        self._faults: list[dict[str, str]] = []

    def prepare(self, lm: LM, task: Task, spec: EditorSpec | None, /) -> Prepared:
        """See `Runner`."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        if self._worker is None or self._worker.lm is not lm:
            self._worker = Worker(lm)
        return self._worker.take(task, spec)

    def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
        """See `Runner`."""
        if self._worker is None:
            raise RuntimeError("expected `prepare` before `run`")
        self._worker.take(task)
        here = _Here(self._worker, task, units)
        yield from hand_out(here, units, Attempts(task.dataset.records, self._faults))

    def job(self, task: Task) -> Job:
        """Return what is prepared of a pass, for one who walks through it alone."""
        if self._worker is None:
            raise RuntimeError("expected `prepare` before `job`")
        return self._worker.job(task.key)

    def report(self) -> Mapping[str, Any]:
        """See `Runner`."""
        faults, self._faults = self._faults, []
        return {"name": self.name, "workers": 1, "faults": summary_of_faults(faults)}


class _Here:
    """This process, as the one worker of a pass."""

    def __init__(self, worker: Worker, task: Task, units: Sequence[Unit]) -> None:
        self._worker = worker
        self._key = task.key
        self._queue = deque(units)

    def top_up(self, _left: Collection[Unit], *, hire: bool) -> bool:  # noqa: ARG002
        """See `Workers`; this process is always at work."""
        return True

    def events(self, _left: Collection[Unit]) -> Iterator[Computed | Fault]:
        """Compute the next unit; see `Workers`."""
        unit = self._queue.popleft()
        try:
            yield self._worker.run(self._key, unit)
        except Exception as error:
            if disk_full(error):
                raise
            reason = f"{type(error).__name__}: {error}"
            logger.warning("records %d to %d failed (%s)", unit.start, unit.stop - 1, reason)
            yield Fault(unit, reason)

    def release(self, unit: Unit) -> None:
        """See `Workers`."""
        self._queue.appendleft(unit)
