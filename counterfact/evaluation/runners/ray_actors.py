"""Workers as Ray actors, one for each GPU or group of cores: on this machine, or on a Ray cluster.

Moritz et al. Ray: A Distributed Framework for Emerging AI Applications. OSDI 2018. https://arxiv.org/abs/1712.05889
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from counterfact.contracts.editors import EditorSpec
from counterfact.core.errors import Failed
from counterfact.evaluation.runners._ray_cluster import RayCluster
from counterfact.evaluation.task import ModelSource, Prepared, Task
from counterfact.evaluation.units import ATTEMPTS, Attempts, Computed, Unit, summary_of_faults
from counterfact.lm.model.loading import LM


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
        # Who shows progress cannot be sent.
        bare = replace(task, resources=replace(task.resources, progress=None))
        return self.cluster.connect().put(bare)

    def prepare(self, _lm: LM, task: Task, _spec: EditorSpec | None, /) -> Prepared:
        """See `Runner`; the first worker prepares, so that the others find it done."""
        sent, reason = self.send(task), ""
        for _ in range(ATTEMPTS):
            seat = self.seats[0] if self.seats else self.hire()
            try:
                self.first = self.cluster.get(self.cluster.wait([seat.actor.take.remote(sent)]))
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
        return _Pass(self, task, units).run() if units else iter(())

    def report(self) -> Mapping[str, Any]:
        """See `Runner`."""
        faults, self.faults = self.faults, []
        return {"name": self.name, "workers": self.workers, "faults": summary_of_faults(faults)}


class _Pass:
    """One pass: which units are waiting, and which worker has which."""

    def __init__(self, runner: RayRunner, task: Task, units: Sequence[Unit]) -> None:
        self._runner = runner
        self._cluster = runner.cluster
        self._task = task
        self._sent = runner.send(task)
        self._queue = deque(units)
        self._attempts = Attempts(task.dataset.records, runner.faults)
        self._busy: dict[Any, tuple[Seat, Unit | None]] = {}
        """By the result that is awaited: a unit, or `None` for a worker that prepares."""
        self._absent = 0
        """Workers in a row that did not come to work."""

    def run(self) -> Iterator[Computed]:
        """Yield units as they finish, those that are given up included."""
        while self._queue or any(unit for _, unit in self._busy.values()):
            self._hand_out()
            ref = self._cluster.wait(list(self._busy))
            seat, unit = self._busy.pop(ref)
            try:
                result = self._cluster.get(ref)
            except Exception as error:
                computed = self._failed(seat, unit, error)
            else:
                computed = result if unit is not None else None
                if unit is None:
                    self._arrived(seat, result)
            if computed is not None:
                self._absent = 0
                yield computed

    def _hand_out(self) -> None:
        """Give each idle worker a unit, or the task, and ask for more workers if there is more to do."""
        held = [seat for seat, _ in self._busy.values()]
        wanted = min(self._runner.workers, len(held) + len(self._queue))
        while len(self._runner.seats) < wanted and self._absent < ATTEMPTS:
            self._runner.hire()
        for seat in self._runner.seats:
            if seat in held or not self._queue:
                continue
            if self._task.key in seat.taken:
                unit = self._queue.popleft()
                self._busy[seat.actor.run.remote(self._task.key, unit)] = (seat, unit)
            else:
                self._busy[seat.actor.take.remote(self._sent)] = (seat, None)
        if not self._busy:
            raise Failed(f"no Ray worker comes to work: {self._runner.faults[-1]['reason']}")

    def _arrived(self, seat: Seat, prepared: Prepared) -> None:
        if self._runner.first is not None:
            self._runner.first.check(prepared, "a worker")
        seat.taken.add(self._task.key)

    def _failed(self, seat: Seat, unit: Unit | None, error: Exception) -> Computed | None:
        reason = self._cluster.reason(error)
        if unit is None or self._cluster.died(error):
            self._runner.dismiss(seat)
        if unit is None:
            self._absent += 1
            self._runner.faults.append({"records": "none", "reason": reason})
            return None
        given_up = self._attempts.charge(unit, reason)
        if given_up is None:
            self._queue.appendleft(unit)
        return given_up
