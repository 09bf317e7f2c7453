"""How requests share edits: the part of a run's protocol that says which facts are edited together, and when."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from counterfact.core.errors import BadInput
from counterfact.core.records import BadRecord, Record
from counterfact.core.seeds import derive_seed

T = TypeVar("T")
POWERS = (1, 10, 100, 1_000, 10_000)
"""Numbers of edits after which a sequential run is measured, where none are chosen."""


@dataclass(frozen=True)
class Schedule:
    """Groups of consecutive records that share one edit.

    Each group is edited on the unedited model and measured right after; or, sequentially, on the model as it was edited
    before, and measured right after and again later.

    A group follows from a record's position alone: never from how many groups are computed together, which is mere
    speed.
    """

    edits_at_once: int = 1
    """Number of records in a group; a record that cannot be read takes its place in the group too."""
    sequential: bool = False
    """Whether an edit is made on top of those before it."""
    measure_after: tuple[int, ...] = POWERS
    """Of a sequential run: after how many edits all that were made are measured, rounded up to whole groups; they
    always are after the last one. Others are measured group by group, right after the edit."""
    order: int = 0
    """Of a sequential run: which order the records are edited in; 0 is that of the data set, others are shuffled."""
    keep_going: bool = False
    """Whether a sequential run goes on where the model has collapsed."""

    def __post_init__(self) -> None:
        if self.edits_at_once < 1:
            raise BadInput(f"expected edits_at_once of 1 or more, got {self.edits_at_once}")
        if self.order < 0 or not all(edits > 0 for edits in self.measure_after):
            raise BadInput(
                f"expected an order of 0 or more, and to measure after 1 edit or more, got order {self.order} and "
                f"{', '.join(map(str, self.measure_after))}"
            )
        if not self.sequential and (self.order or self.keep_going or self.measure_after != POWERS):
            raise BadInput(
                "orders, measure_after and keep_going are about edits one after another: make the run sequential "
                "(--sequential)"
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a run's protocol says of it."""
        if not self.sequential:
            return {"edits_at_once": self.edits_at_once, "sequential": False, "measure_after": "edit"}
        return {
            "edits_at_once": self.edits_at_once,
            "sequential": True,
            "measure_after": list(self.measure_after),
            "order": self.order,
            "keep_going": self.keep_going,
        }

    def cut(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Return the groups of a whole data set, or of a part that begins where a group does.

        >>> Schedule(edits_at_once=2).cut("abcde")
        ['ab', 'cd', 'e']
        """
        step = self.edits_at_once
        return [items[start : start + step] for start in range(0, len(items), step)]

    def records_together(self, chunk: int) -> int:
        """Return how many records are computed together where a plan says `chunk`: whole groups, at least one.

        >>> Schedule().records_together(64), Schedule(edits_at_once=10).records_together(64)
        (64, 60)
        """
        return max(1, chunk // self.edits_at_once) * self.edits_at_once

    def ordered(self, records: Sequence[Record | BadRecord], seed: int) -> list[Record | BadRecord]:
        """Return records in the order in which they are edited; `seed` is the run's."""
        if not self.order:
            return list(records)
        return sorted(records, key=lambda record: derive_seed(seed, "order of edits", self.order, record.case_id))

    def checkpoints(self, records: int) -> list[int]:
        """Return after which steps so many records are measured again; the last step is always among them.

        >>> Schedule(20, sequential=True).checkpoints(1000), Schedule(3, sequential=True).checkpoints(7)
        ([1, 5, 50], [1, 3])
        """
        steps = {math.ceil(edits / self.edits_at_once) for edits in self.measure_after if edits < records}
        return sorted({*steps, math.ceil(records / self.edits_at_once)})


def in_words(schedule: Mapping[str, Any]) -> str:
    """Say what a run's protocol says of its schedule; nothing where each fact has an edit of its own.

    >>> in_words(Schedule(10).identity), in_words(Schedule(10, sequential=True, order=1).identity)
    ('10 edits at once', '10 edits at once, one group after another, order 1')
    """
    together = schedule["edits_at_once"]
    words = [] if together == 1 else [f"{together:,} edits at once"]
    if schedule["sequential"]:
        words.append("one edit after another" if together == 1 else "one group after another")
        words += [f"order {schedule['order']}"] if schedule["order"] else []
        words += ["going on after a collapse"] if schedule["keep_going"] else []
    return ", ".join(words)


def alike(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal in the schedules of runs that are compared: all but when else they were measured."""
    return {name: value for name, value in schedule.items() if name != "measure_after"}
