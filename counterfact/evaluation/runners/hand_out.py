"""How units are handed to workers, whoever these are: what fails is tried again, and given up after some attempts."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from counterfact.core.errors import Failed
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.chunks import Outcome
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.task import Task

ATTEMPTS = 3
"""How often a unit is begun before its records are recorded as failed."""
PATIENCE = 30.0
"""Seconds after which it is said that a worker is waited for."""


def preparing(task: Task) -> str:
    """Return what to add where a worker that prepares a pass is waited for: it is elsewhere, and shows nothing."""
    texts = task.resources.second_moment_texts
    if task.editor is None or texts is None or texts.moments:
        return ""
    return (
        f"; preparing {task.editor} takes a pass over {texts.name} texts where its second moments are in no cache yet: "
        "`counterfact second-moment` takes it beforehand, and says how far it is"
    )


class Attempts:
    """Counts what went wrong with each unit, and gives up on one that fails again and again."""

    def __init__(self, records: Sequence[Record | BadRecord], faults: list[dict[str, str]] | None = None) -> None:
        self._records = records
        self._count: Counter[Unit] = Counter()
        self.faults: list[dict[str, str]] = [] if faults is None else faults
        """Every attempt that failed, for `environment`."""

    def charge(self, unit: Unit, reason: str) -> Computed | None:
        """Note a failed attempt; return outcomes that say so after the last one, `None` where another is due."""
        self._count[unit] += 1
        self.faults.append({"records": f"{unit.start}-{unit.stop - 1}", "reason": reason})
        if self._count[unit] < ATTEMPTS:
            return None
        error = {"stage": "unit", "reason": f"{ATTEMPTS} attempts failed; the last one: {reason}"}
        ids = [record.case_id for record in self._records[unit.start : unit.stop]]
        return Computed(unit, [Outcome({"case_id": i, "error": dict(error)}, {"case_id": i}) for i in ids])


@dataclass(frozen=True)
class Fault:
    """An attempt at a unit that failed, or a worker that never came to work."""

    unit: Unit | None
    """`None`: the worker was lost before it had a unit."""
    reason: str


class Workers(Protocol):
    """The workers of one pass, however they are reached."""

    def top_up(self, left: Collection[Unit], *, hire: bool) -> bool:
        """Give idle workers units that nobody has, and return whether anybody is at work.

        Args:
            left: units that are not there yet.
            hire: whether to ask for more workers where there is more to do.
        """

    def events(self, left: Collection[Unit]) -> Iterator[Computed | Fault]:
        """Wait until something has happened, and yield what: finished units of `left`, and faults.

        `left` shrinks while this goes on, as what is yielded is taken in.
        """

    def release(self, unit: Unit) -> None:
        """Let a unit be taken again, whose attempt failed."""


def hand_out(workers: Workers, units: Sequence[Unit], attempts: Attempts) -> Iterator[Computed]:
    """Yield units as they finish, those that are given up included.

    Raises:
        Failed: no worker comes to work.
    """
    left = set(units)
    lost = 0  # workers in a row that never came to work
    while left:
        if not workers.top_up(left, hire=lost < ATTEMPTS):
            raise Failed(f"no worker comes to work: {attempts.faults[-1]['reason']}")
        for event in workers.events(left):
            computed: Computed | None
            if isinstance(event, Computed):
                computed, lost = event, 0
            elif event.unit is None:
                computed, lost = None, lost + 1
                attempts.faults.append({"records": "none", "reason": event.reason})
            else:
                computed = attempts.charge(event.unit, event.reason)
                if computed is None:
                    workers.release(event.unit)
            if computed is not None:
                left.discard(computed.unit)
                yield computed


def summary_of_faults(faults: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return faults as a run file holds them, equal ones counted.

    >>> summary_of_faults([{"records": "0-2", "reason": "died"}, {"records": "0-2", "reason": "died"}])
    [{'records': '0-2', 'reason': 'died', 'n': 2}]
    """
    counted = Counter((fault["records"], fault["reason"]) for fault in faults)
    return [{"records": records, "reason": reason, "n": n} for (records, reason), n in counted.items()]
