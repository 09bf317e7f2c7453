"""Attention over rows of unequal length that stand one after the other, each perhaps after earlier tokens of its own.

The earlier tokens' keys and values are constants: they are never copied beside the new ones, and no gradient is
computed for them. So attention is two products on each side of one softmax,

$$A = \\mathrm{softmax}\\left([\\,q K_{\\text{earlier}}^\\top \\mid q K^\\top\\,] / \\sqrt{d} + M\\right), \\qquad
  y = A_{\\text{earlier}} V_{\\text{earlier}} + A_{\\text{new}} V.$$
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lm.attending import attend_by
from lm.earlier import Earlier
from lm.loading import LM
from lm.ragged import Group, Ragged


@dataclass(frozen=True, eq=False)
class RaggedRows:
    """What attention is told about a batch."""

    layout: Ragged
    device: torch.device
    earlier: Earlier | None = None
    tail: int | None = None
    """Only the last so many tokens of each row are asked for; the others get zeros."""

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """What is added to the scores of each group, (rows or 1, 1, asked, earlier + length); `None`: just causal."""
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
    def _cut(self) -> Ragged:
        return self.layout if self.tail is None else self.layout.cut(self.tail)

    def layout_of(self, states: Tensor) -> Ragged:
        """Return the layout of states (1, tokens, ...): of all tokens, or of those that are asked for."""
        return self.layout if states.shape[1] == self.layout.tokens else self._cut

    def asked(self, group: Group) -> int:
        """How many tokens of each row of a group are asked for."""
        return group.length if self.tail is None else min(self.tail, group.length)

    def _mask(self, number: int, group: Group) -> Tensor | None:
        asked, earlier = self.asked(group), None if self.earlier is None else self.earlier.masks[number]
        if earlier is None:
            if asked == group.length:
                return None
            return _causal(asked, group.length, torch.zeros((), device=self.device))[None, None]
        new = _causal(asked, group.length, earlier).expand(len(earlier), 1, -1, -1)
        return torch.cat([earlier[:, None, None].expand(-1, 1, asked, -1), new], -1)


def ragged_attention(lm: LM, rows: RaggedRows) -> AbstractContextManager[None]:
    """Let all blocks attend as `rows` says within the block that is returned."""
    return attend_by(lm, partial(attend, rows))


def attend(rows: RaggedRows, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend within each row, and to its earlier tokens.

    Args:
        rows: the rows.
        module: the attention module, for its layer.
        query: (1, heads, tokens, head width); keys and values may have fewer heads, each for several of the query.
        key, value: (1, key heads, tokens, head width).
        scaling: of the scores.

    Returns:
        (1, tokens, heads, head width).
    """
    if rows.tail == 0:
        return query.new_zeros(query.transpose(1, 2).shape)
    parts = []
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    sizes = [group.rows * group.length for group in rows.layout.groups]
    split = zip(*(torch.split(states[0], sizes, 1) for states in (query, key, value)), strict=True)
    for number, (group, mask, own) in enumerate(zip(rows.layout.groups, rows.masks, split, strict=True)):
        q, k, v = (_split(states, 1, group.rows) for states in own)
        if mask is None:
            found = _within_rows(q, k, v, scaling)
        else:
            before = group.length - rows.asked(group)
            constant = None if (earlier := rows.earlier) is None else earlier.of(module.layer_idx, number)
            found = _with_earlier(q[:, :, before:], k, v, scaling, mask, constant)
            found = torch.nn.functional.pad(found, (0, 0, 0, 0, before, 0)) if before else found
        parts.append(found.flatten(0, 1))
    return torch.cat(parts)[None].to(value.dtype)


def _within_rows(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """(heads, rows, length, head width) each; returns (rows, length, heads, head width)."""
    if query.shape[2] == 1:
        shares = query.shape[0] // key.shape[0]
        return value.repeat_interleave(shares, 0).permute(1, 2, 0, 3)
    q, k, v = (states.transpose(0, 1) for states in (query, key, value))
    grouped = query.shape[0] != key.shape[0]
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped).transpose(1, 2)


def _with_earlier(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor, earlier: tuple[Tensor, Tensor] | None
) -> Tensor:
    """(heads, rows, asked or length, head width) each; returns (rows, asked, heads, head width)."""
    heads, rows, _, size = key.shape
    asked = query.shape[2]
    # Queries that share a key's head stand side by side: (key heads, rows, shares x asked, head width).
    shared = _split(query, 0, heads).transpose(1, 2).flatten(2, 3)
    scores = torch.matmul(shared, key.transpose(2, 3))
    width = 0
    if earlier is not None:
        width = earlier[0].shape[3]
        scores = torch.cat([_by_rows(shared, earlier[0]), scores], -1)
    weights = _split(scores, 2, scores.shape[2] // asked).to(torch.promote_types(scores.dtype, torch.float32))
    weights = torch.add(mask.to(weights), weights, alpha=scaling).softmax(-1).to(value.dtype).flatten(2, 3)
    past, new = torch.split(weights, [width, weights.shape[-1] - width], -1)
    found = torch.matmul(new, value)
    if earlier is not None:
        found = found + _by_rows(past, earlier[1])
    # To (rows, asked, heads, head width).
    return found.view(heads, rows, -1, asked, size).permute(1, 3, 0, 2, 4).flatten(2, 3)


def _by_rows(states: Tensor, constant: Tensor) -> Tensor:
    """Multiply (heads, rows, a, b) by (heads, rows, b, c), or by what is the same for all rows, (heads, 1, b, c)."""
    if constant.shape[1] == states.shape[1]:
        return torch.matmul(states, constant)
    rows: Tensor = torch.matmul(states.flatten(1, 2), constant[:, 0]).unflatten(1, states.shape[1:3])  # type: ignore[no-untyped-call]
    return rows


def _split(states: Tensor, dim: int, parts: int) -> Tensor:
    """View one dimension as two, the first of `parts`."""
    return states.view(*states.shape[:dim], parts, -1, *states.shape[dim + 1 :])


def _causal(asked: int, length: int, like: Tensor) -> Tensor:
    """For the last `asked` of `length` tokens, 0 where one may look, the lowest number of `like`'s dtype elsewhere."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((asked, length), lowest, dtype=like.dtype, device=like.device).triu(length - asked + 1)
