r"""Attention over rows after constant prefixes, forward and back, for the gradient of what runs through it.

A prefix is a constant, so no gradient is computed for it, and attention is two products on each side of one softmax,

$$A = \mathrm{softmax}\left([\,q K_{\text{prefix}}^\top \mid q K^\top\,] / \sqrt{d} + M\right), \qquad
  y = A_{\text{prefix}} V_{\text{prefix}} + A_{\text{row}} V.$$

A search passes here thousands of times with small groups, where what stands between the products decides. So forward
and back are written out: queries, keys and values are brought into the order of the groups at once, products are
written where they belong, and the way back is the six products that it needs.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterfact.lm.forward.operators import softmax_backward
from counterfact.lm.forward.ragged import HeadOrder, RaggedRows


def attend_with_gradient(
    rows: RaggedRows, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """Attend from the requested tokens, to the row up to them and its prefix, padded or not.

    Args:
        rows: the rows.
        layer: whose keys and values of the prefix are meant.
        query: (1, heads, tokens, head width); keys and values may have fewer heads, each for several of the query.
        key, value: (1, key heads, tokens, head width).
        scaling: factor of the scores.

    Returns:
        (1, tokens, heads, head width), zeros for tokens not requested.
    """
    attention: Any = _AttentionByRows.apply
    found: Tensor = attention(query, key, value, rows, layer, scaling)
    return found


class _PrefixPart(NamedTuple):
    """Keys and values of the prefixes of a group, by prefix and head."""

    keys: Tensor
    """(prefixes x heads, head width, prefix tokens)."""
    values: Tensor
    """(prefixes x heads, prefix tokens, head width)."""

    @classmethod
    def of(cls, rows: RaggedRows, layer: int, group: int) -> "_PrefixPart | None":
        if rows.prefix is None:
            return None
        keys, values = (states.flatten(0, 1) for states in rows.prefix.of(layer, group))
        return cls(keys.transpose(1, 2), values) if values.shape[1] else None

    @property
    def width(self) -> int:
        """Number of tokens."""
        return self.keys.shape[2]


class _AttentionByRows(torch.autograd.Function):
    """Queries (1, heads, tokens, head width), keys, values (1, key heads, ...) -> (1, tokens, heads, head width)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: RaggedRows, layer: int, scaling: float
    ) -> Tensor:
        """Attend from the requested tokens; `rows` and `layer` say to what."""
        heads = key.shape[1]
        asked, whole = rows.order(query.shape[1], asked=True), rows.order(heads, asked=False)
        states = asked.take(query[0].transpose(0, 1)), *(whole.take(it[0].transpose(0, 1)) for it in (key, value))
        result = value.new_empty(states[0].shape)
        weights = []
        for number, (found, q, k, v) in enumerate(_groups(asked, whole, heads, (result, states[0]), states[1:])):
            prefix = _PrefixPart.of(rows, layer, number)
            scores = torch.bmm(q, k.transpose(1, 2))
            if prefix is not None:
                scores = torch.cat([_times(q, prefix.keys, heads), scores], -1)
            weights.append(_softmax(scores, rows.masks[number], heads, scaling))
            w = weights[-1].to(v.dtype)
            if prefix is None:
                torch.bmm(w, v, out=found)
            else:
                torch.bmm(w[..., prefix.width :], v, out=found)
                _add_times(found, w[..., : prefix.width], prefix.values, heads)
        if any(ctx.needs_input_grad):
            ctx.kept = (states, weights, asked, whole, heads, rows, layer, scaling)
        return asked.put(result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        states, weights, asked, whole, heads, rows, layer, scaling = ctx.kept
        slope = asked.take(gradient[0])
        moved = [torch.empty_like(it) for it in states]
        groups = _groups(asked, whole, heads, (slope, states[0], moved[0]), (*states[1:], *moved[1:]))
        for number, (g, q, dq, k, v, dk, dv) in enumerate(groups):
            prefix, weight = _PrefixPart.of(rows, layer, number), weights[number]
            change = torch.bmm(g, v.transpose(1, 2))
            if prefix is not None:
                change = torch.cat([_times(g, prefix.values.transpose(1, 2), heads), change], -1)
            width, w = prefix.width if prefix is not None else 0, weight.to(v.dtype)
            (change,) = softmax_backward(change.to(weight.dtype), weight)
            change = change.mul_(scaling).to(q.dtype)
            torch.bmm(change[..., width:], k, out=dq)
            if prefix is not None:
                _add_times(dq, change[..., :width], prefix.keys.transpose(1, 2), heads)
            torch.bmm(change[..., width:].transpose(1, 2), q, out=dk)
            torch.bmm(w[..., width:].transpose(1, 2), g, out=dv)
        back = (order.put(it) for order, it in zip((asked, whole, whole), moved, strict=True))
        return *(it.transpose(1, 2) for it in back), None, None, None


def _groups(
    asked: HeadOrder, whole: HeadOrder, heads: int, of_queries: tuple[Tensor, ...], of_keys: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the groups, all tensors cut into (rows x key heads, tokens, head width)."""
    parts = [asked.split(it, heads) for it in of_queries] + [whole.split(it, heads) for it in of_keys]
    return zip(*parts, strict=True)


def _softmax(scores: Tensor, mask: Tensor, heads: int, scaling: float) -> Tensor:
    """Weights (rows x key heads, queries, keys) of scores of that shape, in float32 or wider."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    # (rows, key heads, queries that share a key, requested tokens, keys).
    by_row = wide.view(-1, heads, scores.shape[1] // mask.shape[3], mask.shape[3], scores.shape[2])
    return torch.add(mask.to(wide), by_row, alpha=scaling).softmax(-1).view(scores.shape)


def _times(states: Tensor, constant: Tensor, heads: int) -> Tensor:
    """Multiply (rows x heads, a, b) by (prefixes x heads, b, c), each prefix for equally many consecutive rows."""
    if len(constant) == len(states):
        return torch.bmm(states, constant)
    prefixes, (_, a, b) = len(constant) // heads, states.shape
    together = states.view(prefixes, -1, heads, a, b).transpose(1, 2).reshape(len(constant), -1, b)
    found = torch.bmm(together, constant).view(prefixes, heads, -1, a, constant.shape[2])
    return found.transpose(1, 2).reshape(len(states), a, -1)


def _add_times(found: Tensor, states: Tensor, constant: Tensor, heads: int) -> None:
    """Add that product to `found`."""
    if len(constant) == len(states):
        found.baddbmm_(states, constant)
    else:
        found += _times(states, constant, heads)
