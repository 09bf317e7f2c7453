"""Attention of packed rows: positions of unequal rows in one line, each row with a prefix that many cells share.

The model's own modules run on one row of all positions, (1, positions, width). What is theirs alone, that a position
looks at its own row and the prefix before it and at nothing else, is done here in the place of the model's attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from counterfact.lm.forward.attention_override import attend_by
from counterfact.lm.model.loading import LM
from counterfact.tracing._patch_sites import Group

Own = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Attention of (rows, heads, queries, head width) to keys and values of (rows, heads, earlier + tokens, head width)."""


class PackedAttention:
    """Attention of groups whose positions lie one after the other."""

    def __init__(self, lm: LM, groups: Sequence[Group]) -> None:
        self.lm = lm
        self.groups = groups
        self.cells = [0] * len(groups)
        """How many cells each row of a group has now."""
        self.last_only = False
        """Whether the last position of each row is all that is read; the others get zeros."""

    def in_place(self) -> AbstractContextManager[None]:
        """Use this attention in the model within the block that is returned."""
        return attend_by(self.lm, self._attend)

    def _attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(1, heads, positions, head width) to (1, positions, heads, head width)."""
        method, shared = self.lm.layout.attention_method, getattr(module, "num_key_value_groups", 1)

        def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            if method is None:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
            # GPT-J's own products, which are in single precision.
            found: Tensor = getattr(type(module), method)(module, q, k, v, mask)[0]
            return found

        shape = query.shape[2], query.shape[1], query.shape[3]
        result = query.new_zeros(shape) if self.last_only else query.new_empty(shape)
        for group, cells, places in self._places():
            q, k, v = (_rows(table[0, :, places], group.suffix) for table in (query, key, value))
            q = q[:, :, -1:] if self.last_only else q
            k, v = _grouped(k, shared), _grouped(v, shared)
            keys, values = (_grouped(table, shared) for table in group.before(module.layer_idx))
            found = result[places].view(-1, group.suffix, *shape[1:])[:, -q.shape[2] :]
            if method is None and query.device.type == "cpu":
                _two_parts(q, k, v, keys, values, scaling, cells, found)
            else:
                found[:] = _joined(q, k, v, keys, values, cells, kernel).transpose(1, 2)
        return result[None]

    def _places(self) -> Iterator[tuple[Group, int, slice]]:
        """Yield each group that has cells, how many a row has, and where its positions lie."""
        start = 0
        for group, cells in zip(self.groups, self.cells, strict=True):
            stop = start + group.rows * cells * group.suffix
            if cells:
                yield group, cells, slice(start, stop)
            start = stop


def _rows(table: Tensor, suffix: int) -> Tensor:
    """Cut (heads, positions, head width) into rows, (rows, heads, suffix, head width), without a copy."""
    rows: Tensor = table.unflatten(1, (-1, suffix)).transpose(0, 1)  # type: ignore[no-untyped-call]
    return rows


def _grouped(table: Tensor, groups: int) -> Tensor:
    """Repeat each head of keys or values for all heads of queries that share it."""
    return table if groups == 1 else table.repeat_interleave(groups, dim=1)


def _two_parts(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, scale: float, cells: int, found: Tensor
) -> None:
    r"""Attend to a row's own positions, and to the prefix in one product for all cells of a sample; then mix the two.

    With $Z_1, Z_2$ the sums of exponentials of both parts, the whole is $(Z_1 o_1 + Z_2 o_2) / (Z_1 + Z_2)$.

    Args:
        query: (samples x cells, heads, queries, head width), of all tokens or of the last one.
        key, value: (samples x cells, heads, tokens, head width).
        keys, values: (samples, heads, earlier, head width).
        scale: of the scores.
        cells: rows that share a prefix.
        found: the result is written here, (samples x cells, queries, heads, head width).
    """
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, queries, width = query.shape
    own: Tensor
    own_sum: Tensor
    own, own_sum = kernel(query, key, value, is_causal=queries == key.shape[2], scale=scale)
    own = own.transpose(1, 2)
    if not keys.shape[2]:
        found[:] = own
        return
    samples = rows // cells
    together = query.view(samples, cells, heads, queries, width).transpose(1, 2).flatten(2, 3)
    past, past_sum = kernel(together, keys, values, scale=scale)
    past = past.transpose(1, 2).reshape(rows, queries, heads, width)
    share = past_sum.transpose(1, 2).reshape(rows, queries, heads) - own_sum.transpose(1, 2)
    torch.lerp(own, past, share.sigmoid_().to(past.dtype)[..., None], out=found)


def _joined(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, cells: int, kernel: Own) -> Tensor:
    """Attend by any function, prefix and own positions side by side; shapes as in `_two_parts`, heads first."""
    tokens, earlier = key.shape[2], keys.shape[2]
    whole = [
        torch.cat([table.repeat_interleave(cells, dim=0), own], dim=2) for table, own in ((keys, key), (values, value))
    ]
    seen = torch.ones(tokens, earlier + tokens, dtype=torch.bool, device=query.device).tril(earlier)
    mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device)
    mask = mask.masked_fill(~seen, torch.finfo(query.dtype).min)
    return kernel(query, whole[0], whole[1], mask[-query.shape[2] :])
