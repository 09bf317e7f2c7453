"""Workers as the jobs of a Slurm array, submitted by submitit (https://github.com/facebookincubator/submitit)."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from counterfact.contracts.editors import EditorSpec
from counterfact.core.errors import Failed
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.runners import slurm_worker
from counterfact.evaluation.runners._slurm_cluster import SlurmCluster
from counterfact.evaluation.runners.exchange import PREFIX, Exchange, Order
from counterfact.evaluation.runners.hand_out import (
    ATTEMPTS,
    PATIENCE,
    Attempts,
    Fault,
    hand_out,
    preparing,
    summary_of_faults,
)
from counterfact.evaluation.task import ModelSource, Prepared, Task
from counterfact.lm.model.language_model import LM

logger = logging.getLogger(__name__)


class SlurmRunner:
    """Submits one job that prepares, then an array of workers that claim units; a job that dies is replaced.

    Args:
        source: of model and editors, as every node finds them.
        workers: jobs in the array.
        threads: of each, and so the cores that it asks for.
        parameters: of the jobs; see `SlurmCluster`.
    """

    name = "slurm"
    text_processes = 0

    def __init__(self, source: ModelSource, workers: int, threads: int, parameters: Mapping[str, Any]) -> None:
        gpus = int(source.device != "cpu")
        self.cluster = SlurmCluster({"cpus_per_task": threads, "gpus_per_node": gpus}, parameters)
        self.workers = workers
        self.faults: list[dict[str, str]] = []
        self._source = source
        self._threads = threads
        self._prepared: Prepared | None = None

    def prepare(self, _lm: LM, task: Task, _spec: EditorSpec | None, /) -> Prepared:
        """See `Runner`; a job of its own prepares, so that the others find it done."""
        exchange, reason = self._open(task), ""
        try:
            for _ in range(ATTEMPTS):
                [job] = self.cluster.submit(exchange.folder, exchange.jobs, slurm_worker.prepare, 1)
                try:
                    self._await(job, preparing(task))
                finally:
                    cancel([job])
                if (problem := self.cluster.fate(job)) is None:
                    self._prepared = result(job)
                    return self._prepared
                reason = problem
        finally:
            exchange.close()
        raise Failed(f"no Slurm job could prepare {task.editor or 'the unedited model'}: {reason}")

    def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
        """See `Runner`."""
        left = set(units)
        for old in [Exchange(path) for path in task.folder.glob(f"{PREFIX}*")]:
            # Of a coordinator that was killed; its workers leave when it is gone.
            for computed in old.files(task).present(sorted(left)):
                left.discard(computed.unit)
                yield computed
            old.close()
        if not left:
            return
        exchange = self._open(task, sorted(left))
        crew = Crew(self, exchange, task)
        try:
            yield from hand_out(crew, sorted(left), Attempts(task.dataset.records, self.faults))
        finally:
            cancel(crew.jobs)
            exchange.close()

    def report(self) -> Mapping[str, Any]:
        """See `Runner`."""
        faults, self.faults = self.faults, []
        return {"name": self.name, "workers": self.workers, "faults": summary_of_faults(faults)}

    def _open(self, task: Task, units: Sequence[Unit] = ()) -> Exchange:
        exchange = Exchange(task.folder / f"{PREFIX}{uuid4().hex[:12]}")
        exchange.offer(Order(self._source, self._threads, task, units, self._prepared if units else None))
        return exchange

    def _await(self, job: Any, note: str) -> None:
        start, said = time.monotonic(), False
        while not job.done():
            if not said and time.monotonic() - start > PATIENCE:
                logger.warning("still waiting for Slurm job %s%s", job.job_id, note)
                said = True
            time.sleep(self.cluster.poll)


class Crew:
    """The jobs of one pass, as the coordinator sees them.

    Args:
        runner: whose jobs they are.
        exchange: through which they work.
        task: the pass.
    """

    def __init__(self, runner: SlurmRunner, exchange: Exchange, task: Task) -> None:
        self.jobs: list[Any] = []
        self._runner = runner
        self._exchange = exchange
        self._files = exchange.files(task)

    def top_up(self, left: Collection[Unit], *, hire: bool) -> bool:
        """Submit jobs for units that nobody claims; see `Workers`."""
        unclaimed = len(left) - len(self._exchange.claimed(sorted(left)))
        more = min(self._runner.workers, len(left)) - len(self.jobs)
        if hire and unclaimed and more > 0:
            folder, logs = self._exchange.folder, self._exchange.jobs
            self.jobs += self._runner.cluster.submit(folder, logs, slurm_worker.work, more)
        return bool(self.jobs)

    def events(self, left: Collection[Unit]) -> Iterator[Computed | Fault]:
        """Look at the exchange and at the jobs once; see `Workers`."""
        over = [job for job in self.jobs if job.done()]  # before the files: what such a job finished is there
        found = list(self._files.present(sorted(left)))
        for computed in found:
            yield computed
            self._files.remove(computed.unit)
        for unit, reason in self._exchange.faults(sorted(left)).items():
            yield Fault(unit, reason)
        for job in over:
            yield from self._bury(job, left)
        if not found and not over:
            time.sleep(self._runner.cluster.poll)

    def release(self, unit: Unit) -> None:
        """See `Workers`."""
        self._exchange.release(unit)

    def _bury(self, job: Any, left: Collection[Unit]) -> Iterator[Fault]:
        """Let go of a job that is over, and of what it had claimed."""
        self.jobs.remove(job)
        reason = self._runner.cluster.fate(job)
        if reason is None:
            result(job)
            return
        claimed = self._exchange.claimed(sorted(left))
        mine = [unit for unit, owner in claimed.items() if owner in {str(job.job_id), ""}]
        yield from (Fault(unit, reason) for unit in mine)
        if not mine:
            yield Fault(None, reason)


def result(job: Any) -> Any:
    """Return what a job returned; raise what it stopped with."""
    found = job.result()
    if isinstance(found, slurm_worker.Stop):
        raise found.error
    return found


def cancel(jobs: Sequence[Any]) -> None:
    """Cancel jobs that are not over."""
    for job in jobs:
        with suppress(Exception):
            if not job.done():
                job.cancel(check=False)
