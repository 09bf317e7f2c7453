"""How units are handed to workers, whoever these are: what fails is tried again, and given up after some attempts."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from counterfact.core.errors import Failed
from counterfact.evaluation.units import ATTEMPTS, Attempts, Computed, Unit


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
