"""How requests share edits: the part of a run's protocol that says which facts are edited together, and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from counterfact.core.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Groups of consecutive records that share one edit, each made on the unedited model and measured right after.

    A group follows from a record's position in the data set alone: never from how many groups are computed together,
    which is mere speed.
    """

    edits_at_once: int = 1
    """Number of records in a group; a record that cannot be read takes its place in the group too."""
    sequential: Literal[False] = False
    """Whether an edit is made on top of those before it."""
    measure_after: Literal["edit"] = "edit"
    """What is measured when: each group right after its own edit."""

    def __post_init__(self) -> None:
        if self.edits_at_once < 1:
            raise BadInput(f"expected edits_at_once of 1 or more, got {self.edits_at_once}")

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a run's protocol says of it."""
        return {name: getattr(self, name) for name in ("edits_at_once", "sequential", "measure_after")}

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
