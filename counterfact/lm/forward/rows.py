"""Rows of unequal length as attention is told of them: what stands before, what is asked for, in what order."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from counterfact.lm.forward.layout import RaggedLayout, RowGroup
from counterfact.lm.forward.prefix import Earlier


@dataclass(frozen=True, eq=False)
class RaggedRows:
    """What attention is told about a batch."""

    layout: RaggedLayout
    device: torch.device
    earlier: Earlier | None = None
    tail: int | None = None
    """Only the last so many tokens of each row are asked for; the others get zeros."""

    @cached_property
    def masks(self) -> list[Tensor]:
        """What is added to the scores of each group, (rows or 1, 1, 1, asked, earlier + length)."""
        return [self._mask(number, group) for number, group in enumerate(self.layout.groups)]

    @cached_property
    def whole(self) -> "RaggedRows":
        """The same with every token asked for."""
        return self if self.tail is None else replace(self, tail=None)

    @cached_property
    def asked_for(self) -> Tensor:
        """The tokens that are asked for, in the order in which they stand."""
        tokens = range(self.layout.tokens) if self.tail is None else self.layout.tails(self.tail)
        return torch.tensor(tokens, dtype=torch.long, device=self.device)

    @cached_property
    def _cut(self) -> RaggedLayout:
        return self.layout if self.tail is None else self.layout.cut(self.tail)

    def layout_of(self, states: Tensor) -> RaggedLayout:
        """Return the layout of states (1, tokens, ...): of all tokens, or of those that are asked for."""
        return self.layout if states.shape[1] == self.layout.tokens else self._cut

    def asked(self, group: RowGroup) -> int:
        """How many tokens of each row of a group are asked for."""
        return group.length if self.tail is None else min(self.tail, group.length)

    def _mask(self, number: int, group: RowGroup) -> Tensor:
        asked = self.asked(group)
        if self.earlier is None:
            return _causal(asked, group.length, torch.zeros((), device=self.device))[None, None, None]
        earlier = self.earlier.masks[number]
        new = _causal(asked, group.length, earlier).expand(len(earlier), 1, 1, -1, -1)
        return torch.cat([earlier[:, None, None, None].expand(-1, 1, 1, asked, -1), new], -1)

    def order(self, heads: int, *, asked: bool) -> "Order":
        """Return the order in which the rows of each group and head stand together.

        Args:
            heads: of the tensor.
            asked: only the tokens that are asked for.
        """
        key = heads, asked
        if key not in self._orders:
            self._orders[key] = Order.of(self, heads, asked=asked)
        return self._orders[key]

    @cached_property
    def _orders(self) -> dict[tuple[int, bool], "Order"]:
        return {}


@dataclass(frozen=True, eq=False)
class Order:
    """Where the vectors of (tokens x heads, head width) stand in (groups x rows x heads x tokens of a row)."""

    index: Tensor
    """The vector at each place."""
    inverse: Tensor | None
    """The place of each vector; `None` where some have none."""
    count: int
    """Vectors."""
    shapes: tuple[tuple[int, int, int], ...]
    """Of each group's part: rows, heads, tokens of a row."""

    @classmethod
    def of(cls, rows: RaggedRows, heads: int, *, asked: bool) -> "Order":
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


def _causal(asked: int, length: int, like: Tensor) -> Tensor:
    """For the last `asked` of `length` tokens, 0 where one may look, the lowest number of `like`'s dtype elsewhere."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((asked, length), lowest, dtype=like.dtype, device=like.device).triu(length - asked + 1)
