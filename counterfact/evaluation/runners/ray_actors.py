"""Workers as Ray actors, one for each GPU or group of cores: on this machine, or on a Ray cluster.

Moritz et al. Ray: A Distributed Framework for Emerging AI Applications. OSDI 2018. https://arxiv.org/abs/1712.05889
"""

import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from counterfact.contracts.editors import EditorSpec
from counterfact.core.errors import Failed
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.runners._ray_cluster import RayCluster
from counterfact.evaluation.runners.hand_out import ATTEMPTS, Attempts, Fault, hand_out, preparing, summary_of_faults
from counterfact.evaluation.task import ModelSource, Prepared, Task
from counterfact.lm.model.language_model import LM


@dataclass(eq=False)
class Seat:
    """A worker, and the passes it has prepared."""

    actor: Any
    taken: set[str] = field(default_factory=set)


class RayRunner:
    """Hands units to actors, one at a time each; an actor that dies costs the unit it held, which another gets.

    Actors live, with their model, until the runner is closed. This process alone knows which unit is whose, and
    outcomes come back to it: no worker needs to reach the folder of results.

    Args:
        source: of model and editors, as every worker finds them.
        workers: how many actors at most.
        threads: of each, and so the cores that it asks Ray for.
        address: of a Ray cluster; `None`: a Ray of our own, which ends with the runner.
    """

    name = "ray"

    def __init__(self, source: ModelSource, workers: int, threads: int, address: str | None = None) -> None:
        self.workers = workers
        self.cluster = RayCluster(source, workers, threads, address)
        self.seats: list[Seat] = []
        self.faults: list[dict[str, str]] = []
        self.first: Prepared | None = None
        """What the first worker prepared, of an editor or of none."""

    @property
    def text_processes(self) -> int:
        """One for each worker, as far as this machine has cores."""
        return max(1, min(self.workers, (os.cpu_count() or 2) - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and Ray if it is ours."""
        for seat in list(self.seats):
            self.dismiss(seat)
        self.cluster.close()

    def hire(self) -> Seat:
        """Ask for a worker."""
        self.seats.append(Seat(self.cluster.worker()))
        return self.seats[-1]

    def dismiss(self, seat: Seat) -> None:
        """End a worker, or forget one that is gone."""
        self.cluster.dismiss(seat.actor)
        self.seats.remove(seat)

    def send(self, task: Task) -> Any:
        """Leave a task where workers find it."""
        return self.cluster.connect().put(task)

    def prepare(self, _lm: LM, task: Task, _spec: EditorSpec | None, /) -> Prepared:
        """See `Runner`; the first worker prepares, so that the others find it done."""
        sent, reason = self.send(task), ""
        for _ in range(ATTEMPTS):
            seat = self.seats[0] if self.seats else self.hire()
            try:
                self.first = self.cluster.get(self.cluster.wait([seat.actor.take.remote(sent)], preparing(task)))
            except Exception as error:
                reason = self.cluster.reason(error)
                self.dismiss(seat)
                continue
            seat.taken.add(task.key)
            assert self.first is not None
            return self.first
        raise Failed(f"no Ray worker could prepare {task.editor or 'the unedited model'}: {reason}")

    def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
        """See `Runner`."""
        return hand_out(_Crew(self, task, units), units, Attempts(task.dataset.records, self.faults))

    def report(self) -> Mapping[str, Any]:
        """See `Runner`."""
        faults, self.faults = self.faults, []
        return {"name": self.name, "workers": self.workers, "faults": summary_of_faults(faults)}


class _Crew:
    """The actors of one pass: which units nobody has, and which worker has which."""

    def __init__(self, runner: RayRunner, task: Task, units: Sequence[Unit]) -> None:
        self._runner = runner
        self._cluster = runner.cluster
        self._task = task
        self._sent = runner.send(task) if units else None
        self._queue = deque(units)
        self._busy: dict[Any, tuple[Seat, Unit | None]] = {}
        """By the result that is awaited: a unit, or `None` for a worker that prepares."""

    def top_up(self, _left: Collection[Unit], *, hire: bool) -> bool:
        """Give each idle worker a unit, or the task; see `Workers`."""
        held = [seat for seat, _ in self._busy.values()]
        wanted = min(self._runner.workers, len(held) + len(self._queue)) if hire else 0
        while len(self._runner.seats) < wanted:
            self._runner.hire()
        for seat in self._runner.seats:
            if seat in held or not self._queue:
                continue
            if self._task.key in seat.taken:
                unit = self._queue.popleft()
                self._busy[seat.actor.run.remote(self._task.key, unit)] = (seat, unit)
            else:
                self._busy[seat.actor.take.remote(self._sent)] = (seat, None)
        return bool(self._busy)

    def events(self, _left: Collection[Unit]) -> Iterator[Computed | Fault]:
        """Wait for one result; see `Workers`."""
        ref = self._cluster.wait(list(self._busy))
        seat, unit = self._busy.pop(ref)
        try:
            result = self._cluster.get(ref)
        except Exception as error:
            reason = self._cluster.reason(error)
            if unit is None or self._cluster.died(error):
                self._runner.dismiss(seat)
            yield Fault(unit, reason)
            return
        if unit is not None:
            yield result
            return
        if self._runner.first is not None:
            self._runner.first.check(result, "a worker")
        seat.taken.add(self._task.key)

    def release(self, unit: Unit) -> None:
        """See `Workers`."""
        self._queue.appendleft(unit)
