"""Rows of unequal length laid one after the other, with no padding between them.

All a model does but attention is done token by token, so a batch needs no rectangle: (1, tokens, width) holds the
tokens of all rows. Rows are sorted by length, and rows of one length stand together as a rectangle, on which attention
runs (`lm.attention`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class RowGroup(NamedTuple):
    """Rows of equal length that stand together."""

    start: int
    """Its first token."""
    rows: int
    length: int

    @property
    def tokens(self) -> slice:
        """Its tokens."""
        return slice(self.start, self.start + self.rows * self.length)

    def of(self, packed: Tensor) -> Tensor:
        """Return its part of a tensor (1, tokens, ...), as a view (rows, length, ...)."""
        part = packed[0, self.tokens]
        return part.view(self.rows, self.length, *part.shape[1:])


@dataclass(frozen=True, eq=False)
class RaggedLayout:
    """How rows are laid out. The caller's row `order[i]` stands at place i."""

    order: tuple[int, ...]
    groups: tuple[RowGroup, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "RaggedLayout":
        """Lay out rows of these lengths, each at least 1.

        >>> RaggedLayout.of([2, 1, 2])
        RaggedLayout(order=(1, 0, 2), groups=(RowGroup(start=0, rows=1, length=1), RowGroup(start=1, rows=2, length=2)))
        """
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        groups: list[RowGroup] = []
        for row in order:
            length = lengths[row]
            if groups and groups[-1].length == length:
                groups[-1] = groups[-1]._replace(rows=groups[-1].rows + 1)
            else:
                groups.append(RowGroup(groups[-1].tokens.stop if groups else 0, 1, length))
        return cls(tuple(order), tuple(groups))

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.groups[-1].tokens.stop if self.groups else 0

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first token of each of the caller's rows."""
        starts = [0] * len(self.order)
        for row, start in zip(self.order, self._starts_in_place(), strict=True):
            starts[row] = start
        return tuple(starts)

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The caller's rows in each group."""
        places = iter(self.order)
        return tuple(tuple(next(places) for _ in range(group.rows)) for group in self.groups)

    def flat(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """Lay out numbers that belong to tokens: `rows` by the caller's row; the result by token."""
        return [value for row in self.order for value in rows[row]]

    def counted(self, first: Sequence[int] | None = None) -> list[int]:
        """Return each token's position: counted from `first`, one for each of the caller's rows, or from 0."""
        begins = [0] * len(self.order) if first is None else first
        return [
            begins[row] + i
            for group, members in zip(self.groups, self.members, strict=True)
            for row in members
            for i in range(group.length)
        ]

    def tails(self, count: int) -> list[int]:
        """Return the last `count` tokens of every row (all of a shorter one), in place order."""
        return [
            start + i
            for group in self.groups
            for start in range(group.start, group.tokens.stop, group.length)
            for i in range(max(0, group.length - count), group.length)
        ]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Of each of the caller's rows."""
        lengths = [0] * len(self.order)
        for group, members in zip(self.groups, self.members, strict=True):
            for row in members:
                lengths[row] = group.length
        return tuple(lengths)

    def cut(self, count: int) -> "RaggedLayout":
        """Return the layout of `tails(count)` alone, with the same groups."""
        groups: list[RowGroup] = []
        for group in self.groups:
            groups.append(RowGroup(groups[-1].tokens.stop if groups else 0, group.rows, min(count, group.length)))
        return RaggedLayout(self.order, tuple(groups))

    def by_group(self, change: Callable[..., Tensor], *packed: Tensor) -> Tensor:
        """Map tensors (1, tokens, ...) group by group: `change` is given its places and views (rows, length, ...)."""
        parts, place = [], 0
        for group in self.groups:
            rows = slice(place, place + group.rows)
            parts.append(change(rows, *(group.of(tensor) for tensor in packed)).flatten(0, 1))
            place = rows.stop
        return torch.cat(parts)[None]

    def keep(self, kept: Sequence[bool]) -> "KeptRows":
        """Go on with some of the caller's rows, numbered anew in the same order."""
        numbers = [row for row, keep in enumerate(kept) if keep]
        layout = RaggedLayout.of([self.lengths[row] for row in numbers])
        groups = [i for i, members in enumerate(self.members) if any(kept[row] for row in members)]
        places = [torch.tensor([i for i, row in enumerate(self.members[g]) if kept[row]]) for g in groups]
        tokens = layout.flat([range(self.starts[row], self.starts[row] + self.lengths[row]) for row in numbers])
        return KeptRows(layout, groups, places, torch.tensor(tokens))

    def _starts_in_place(self) -> Iterator[int]:
        for group in self.groups:
            yield from range(group.start, group.tokens.stop, group.length)


class KeptRows(NamedTuple):
    """What is left of a layout."""

    layout: RaggedLayout
    groups: list[int]
    """The old groups that have rows left, in the order of the new ones."""
    places: list[Tensor]
    """The rows left in each of these, by their place in it."""
    tokens: Tensor
    """The tokens left, in the new order."""
