"""Rows of unequal length laid one after the other, with no padding between them.

All a model does but attention is done token by token, so a batch needs no rectangle: (1, tokens, width) holds the
tokens of all rows. Rows are sorted by length, and rows of one length stand together as a rectangle, on which attention
runs (`forward.attention`), perhaps after a constant prefix of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.forward.caches import PrefixKV


class RowGroup(NamedTuple):
    """Rows of equal length that stand together."""

    start: int
    """Place of its first token in the line."""
    rows: int
    """Number of rows."""
    length: int
    """Tokens of each row."""

    @property
    def tokens(self) -> slice:
        """Its tokens in the line."""
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

    @classmethod
    def of_groups(cls, groups: Sequence[tuple[int, int]]) -> "RaggedLayout":
        """Lay out groups of rows in the order given, each as its number of rows and their length.

        >>> RaggedLayout.of_groups([(2, 3), (1, 3)])
        RaggedLayout(order=(0, 1, 2), groups=(RowGroup(start=0, rows=2, length=3), RowGroup(start=6, rows=1, length=3)))
        """
        found: list[RowGroup] = []
        for rows, length in groups:
            found.append(RowGroup(found[-1].tokens.stop if found else 0, rows, length))
        return cls(tuple(range(sum(rows for rows, _ in groups))), tuple(found))

    @property
    def tokens(self) -> int:
        """Number of tokens in all rows."""
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
        """Tokens of each of the caller's rows."""
        lengths = [0] * len(self.order)
        for group, members in zip(self.groups, self.members, strict=True):
            for row in members:
                lengths[row] = group.length
        return tuple(lengths)

    def cut(self, count: int) -> "RaggedLayout":
        """Return the layout of `tails(count)` alone, with the same groups."""
        cut = RaggedLayout.of_groups([(group.rows, min(count, group.length)) for group in self.groups])
        return replace(cut, order=self.order)

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


@dataclass(frozen=True, eq=False)
class RaggedRows:
    """Rows of unequal length as attention receives them."""

    layout: RaggedLayout
    device: torch.device
    prefix: PrefixKV | None = None
    tail: int | None = None
    """Attend from the last so many tokens of each row only; the others get zeros. `None`: from all tokens."""

    @cached_property
    def masks(self) -> list[Tensor]:
        """What is added to the scores of each group, (rows or 1, 1, 1, asked, prefix tokens + length)."""
        return [self._mask(number, group) for number, group in enumerate(self.layout.groups)]

    @cached_property
    def whole(self) -> "RaggedRows":
        """The same with every token requested."""
        return self if self.tail is None else replace(self, tail=None)

    @cached_property
    def asked_for(self) -> Tensor:
        """The requested tokens, in the order in which they stand."""
        tokens = range(self.layout.tokens) if self.tail is None else self.layout.tails(self.tail)
        return torch.tensor(tokens, dtype=torch.long, device=self.device)

    @cached_property
    def _cut(self) -> RaggedLayout:
        return self.layout if self.tail is None else self.layout.cut(self.tail)

    def layout_of(self, states: Tensor) -> RaggedLayout:
        """Return the layout of states (1, tokens, ...): of all tokens, or of those that are requested."""
        return self.layout if states.shape[1] == self.layout.tokens else self._cut

    def asked(self, group: RowGroup) -> int:
        """How many tokens of each row of a group are requested."""
        return group.length if self.tail is None else min(self.tail, group.length)

    def _mask(self, number: int, group: RowGroup) -> Tensor:
        asked = self.asked(group)
        if self.prefix is None:
            return causal_mask(asked, group.length, torch.zeros((), device=self.device))[None, None, None]
        before = self.prefix.masks[number]
        if len(before) > 1:
            before = before.repeat_interleave(group.rows // len(before), 0)
        new = causal_mask(asked, group.length, before).expand(len(before), 1, 1, -1, -1)
        return torch.cat([before[:, None, None, None].expand(-1, 1, 1, asked, -1), new], -1)

    @cached_property
    def key_positions(self) -> list[Tensor]:
        """Positions of the keys that each group sees, (rows or 1, prefix tokens + length); a prefix begins at 0."""
        found = []
        for number, group in enumerate(self.layout.groups):
            own = torch.arange(group.length, device=self.device)[None]
            if self.prefix is not None:
                mask = self.prefix.masks[number]
                before = torch.arange(mask.shape[1], device=self.device).expand(mask.shape)
                own = torch.cat([before, own + (mask == 0).sum(1, keepdim=True)], 1)
                own = own if len(own) == 1 else own.repeat_interleave(group.rows // len(own), 0)
            found.append(own)
        return found

    def order(self, heads: int, *, asked: bool) -> "HeadOrder":
        """Return the order in which the rows of each group and head stand together.

        Args:
            heads: of the tensor.
            asked: only the requested tokens.
        """
        key = heads, asked
        if key not in self._orders:
            self._orders[key] = HeadOrder.of(self, heads, asked=asked)
        return self._orders[key]

    @cached_property
    def _orders(self) -> dict[tuple[int, bool], "HeadOrder"]:
        return {}


@dataclass(frozen=True, eq=False)
class HeadOrder:
    """Where the vectors of (tokens x heads, head width) stand in (groups x rows x heads x tokens of a row)."""

    index: Tensor
    """The vector at each place."""
    inverse: Tensor | None
    """The place of each vector; `None` where some have none."""
    count: int
    """Vectors."""
    shapes: tuple[tuple[int, int, int], ...]
    """Rows, heads and tokens of a row of each group's part."""

    @classmethod
    def of(cls, rows: RaggedRows, heads: int, *, asked: bool) -> "HeadOrder":
        parts, shapes = [], []
        for group in rows.layout.groups:
            length = rows.asked(group) if asked else group.length
            tokens = torch.arange(group.start, group.tokens.stop).view(group.rows, 1, group.length)
            parts.append((tokens[:, :, group.length - length :] * heads + torch.arange(heads)[:, None]).flatten())
            shapes.append((group.rows, heads, length))
        index, count = torch.cat(parts).to(rows.device), rows.layout.tokens * heads
        return cls(index, index.argsort() if len(index) == count else None, count, tuple(shapes))

    def take(self, states: Tensor) -> Tensor:
        """Bring (tokens, heads, head width) into this order, (places, head width)."""
        return states.reshape(self.count, -1).index_select(0, self.index)

    def put(self, packed: Tensor) -> Tensor:
        """Bring them back, (1, tokens, heads, head width); zeros where there are none."""
        if self.inverse is None:
            flat = packed.new_zeros(self.count, packed.shape[1]).index_copy_(0, self.index, packed)
        else:
            flat = packed.index_select(0, self.inverse)
        return flat.view(1, -1, self.shapes[0][1], packed.shape[1])

    def split(self, packed: Tensor, heads: int) -> list[Tensor]:
        """Return each group's part, (rows x heads, tokens, head width), as views.

        Args:
            packed: (places, head width).
            heads: so many parts of each row; of queries, those that share one of these follow one another.
        """
        sizes = [rows * own * tokens for rows, own, tokens in self.shapes]
        parts = torch.split(packed, sizes)
        return [
            part.view(rows * heads, -1, packed.shape[1]) for part, (rows, _, _) in zip(parts, self.shapes, strict=True)
        ]


def causal_mask(asked: int, length: int, like: Tensor) -> Tensor:
    """For the last `asked` of `length` tokens, 0 where one may look, the lowest number of `like`'s dtype elsewhere."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((asked, length), lowest, dtype=like.dtype, device=like.device).triu(length - asked + 1)
