r"""Attention over rows of unequal length that stand one after the other, each perhaps after earlier tokens of its own.

Rows of one length are computed together (`lm.ragged`). The earlier tokens' keys and values are constants: they are
never copied beside the new ones, and no gradient is computed for them. So attention is two products on each side of
one softmax,

$$A = \mathrm{softmax}\left([\,q K_{\text{earlier}}^\top \mid q K^\top\,] / \sqrt{d} + M\right), \qquad
  y = A_{\text{earlier}} V_{\text{earlier}} + A_{\text{new}} V.$$

A search passes here thousands of times with small groups, where what stands between the products decides. So forward
and back are written out: queries, keys and values are brought into the order of the groups at once, products are
written where they belong, and the way back is the six products that it needs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from counterfact.lm.forward.attention_override import attend_by
from counterfact.lm.forward.rows import Order, RaggedRows
from counterfact.lm.model.loading import LM


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
    if rows.earlier is None and rows.tail is None:
        return _within_rows(rows, query, key, value, scaling)
    attention: Any = _AttentionByRows.apply
    found: Tensor = attention(query, key, value, rows, module.layer_idx, scaling)
    return found


def _within_rows(rows: RaggedRows, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    sizes = [group.rows * group.length for group in rows.layout.groups]
    parts = []
    for group, *own in zip(
        rows.layout.groups, *(torch.split(states[0], sizes, 1) for states in (query, key, value)), strict=True
    ):
        # (rows, heads, length, head width).
        q, k, v = (states.view(len(states), group.rows, group.length, -1).transpose(0, 1) for states in own)
        if group.length == 1:
            found = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
        else:
            found = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
        parts.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None].to(value.dtype)


class _Past(NamedTuple):
    """Keys and values of a group's earlier tokens, for each row and head, or for each head where rows share them."""

    keys: Tensor
    """(rows x heads or heads, head width, earlier)."""
    values: Tensor
    """(rows x heads or heads, earlier, head width)."""

    @classmethod
    def of(cls, rows: RaggedRows, layer: int, group: int) -> "_Past | None":
        if rows.earlier is None:
            return None
        past = cls(*(states.flatten(0, 1) for states in rows.earlier.of(layer, group)))
        return past if past.width else None

    @property
    def width(self) -> int:
        """How many tokens."""
        return self.keys.shape[2]


class _AttentionByRows(torch.autograd.Function):
    """Queries (1, heads, tokens, head width), keys, values (1, key heads, ...) -> (1, tokens, heads, head width)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: RaggedRows, layer: int, scaling: float
    ) -> Tensor:
        """Attend from the tokens that are asked for; `rows` and `layer` say to what."""
        heads = key.shape[1]
        asked, whole = rows.order(query.shape[1], asked=True), rows.order(heads, asked=False)
        states = asked.take(query[0].transpose(0, 1)), *(whole.take(it[0].transpose(0, 1)) for it in (key, value))
        result = value.new_empty(states[0].shape)
        weights = []
        for number, (found, q, k, v) in enumerate(_groups(asked, whole, heads, (result, states[0]), states[1:])):
            past = _Past.of(rows, layer, number)
            scores = torch.bmm(q, k.transpose(1, 2))
            if past is not None:
                scores = torch.cat([_times(q, past.keys), scores], -1)
            weights.append(_softmax(scores, rows.masks[number], heads, scaling))
            w = weights[-1].to(v.dtype)
            if past is None:
                torch.bmm(w, v, out=found)
            else:
                torch.bmm(w[..., past.width :], v, out=found)
                _add_times(found, w[..., : past.width], past.values)
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
            past, weight = _Past.of(rows, layer, number), weights[number]
            change = torch.bmm(g, v.transpose(1, 2))
            if past is not None:
                change = torch.cat([_times(g, past.values.transpose(1, 2)), change], -1)
            width, w = past.width if past is not None else 0, weight.to(v.dtype)
            change = torch._softmax_backward_data(change.to(weight.dtype), weight, -1, weight.dtype)
            change = change.mul_(scaling).to(q.dtype)
            torch.bmm(change[..., width:], k, out=dq)
            if past is not None:
                _add_times(dq, change[..., :width], past.keys.transpose(1, 2))
            torch.bmm(change[..., width:].transpose(1, 2), q, out=dk)
            torch.bmm(w[..., width:].transpose(1, 2), g, out=dv)
        back = (order.put(it) for order, it in zip((asked, whole, whole), moved, strict=True))
        return *(it.transpose(1, 2) for it in back), None, None, None


def _groups(
    asked: Order, whole: Order, heads: int, of_queries: tuple[Tensor, ...], of_keys: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the groups, all tensors cut into (rows x key heads, tokens, head width)."""
    parts = [asked.split(it, heads) for it in of_queries] + [whole.split(it, heads) for it in of_keys]
    return zip(*parts, strict=True)


def _softmax(scores: Tensor, mask: Tensor, heads: int, scaling: float) -> Tensor:
    """Weights (rows x key heads, queries, keys) of scores of that shape, in float32 or wider."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    # (rows, key heads, queries that share a key, tokens asked for, keys).
    by_row = wide.view(-1, heads, scores.shape[1] // mask.shape[3], mask.shape[3], scores.shape[2])
    return torch.add(mask.to(wide), by_row, alpha=scaling).softmax(-1).view(scores.shape)


def _times(states: Tensor, constant: Tensor) -> Tensor:
    """Multiply (rows x heads, a, b) by (rows x heads, b, c), or by what all rows share, (heads, b, c)."""
    if len(constant) == len(states):
        return torch.bmm(states, constant)
    heads, (_, tokens, width) = len(constant), states.shape
    together = states.view(-1, heads, tokens, width).transpose(0, 1).flatten(1, 2)
    found = torch.bmm(together, constant)
    return found.view(heads, -1, tokens, constant.shape[2]).transpose(0, 1).flatten(0, 1)


def _add_times(found: Tensor, states: Tensor, constant: Tensor) -> None:
    """Add that product to `found`."""
    if len(constant) == len(states):
        found.baddbmm_(states, constant)
    else:
        found += _times(states, constant)
