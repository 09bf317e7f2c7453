"""Attention of packed rows: positions of unequal rows in one line, each row with a prefix that many cells share.

The model's own modules run on one row of all positions, (1, positions, width). What is theirs alone, that a position
looks at its own row and the prefix before it and at nothing else, is done here in the place of the model's attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm.hooks import find_module
from lm.loading import LM
from tracing._spots import Group

NAME = "packed_rows"
"""Under which the function is known to transformers, while it is in use."""
Own = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Attention of (rows, heads, tokens, head width) to keys and values of (rows, heads, earlier + tokens, head width)."""


class PackedAttention:
    """Attention of groups whose positions lie one after the other; `cells` says how many cells each row has now."""

    def __init__(self, lm: LM, groups: Sequence[Group]) -> None:
        self.lm = lm
        self.groups = groups
        self.cells = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use this attention in the model within the block."""
        with ExitStack() as stack:
            if self.lm.layout.attention_kernel == "eager":
                # GPT-J asks no registry; its one method for queries, keys and values is hidden for a while.
                for layer in range(self.lm.n_layers):
                    module: Any = find_module(self.lm.model, self.lm.layout.attention(layer))
                    vars(module)["_attn"] = partial(self._eager, module)
                    stack.callback(vars(module).pop, "_attn")
            else:
                before = self.lm.model.config._attn_implementation
                ALL_ATTENTION_FUNCTIONS[NAME] = self._registered
                stack.callback(ALL_ATTENTION_FUNCTIONS.__delitem__, NAME)
                self.lm.model.set_attn_implementation(NAME)
                stack.callback(self.lm.model.set_attn_implementation, before)
            yield

    def _registered(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG002
        scaling: float | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, None]:
        """As transformers calls it: (1, heads, positions, head width) to (1, positions, heads, head width)."""
        groups = getattr(module, "num_key_value_groups", 1)
        parts = []
        for group, (q, k, v) in self._blocks(query, key, value):
            keys, values = self._before(group, module.layer_idx, groups)
            k, v = _grouped(k, groups), _grouped(v, groups)
            if q.device.type == "cpu":
                found = _two_parts(q, k, v, keys, values, scaling, self.cells)
            else:

                def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)

                found = _joined(q, k, v, keys, values, self.cells, kernel).transpose(1, 2)
            parts.append(found.reshape(-1, *found.shape[2:]))
        return torch.cat(parts)[None], None

    def _eager(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, None]:
        """As GPT-J calls it; its own products, which are in single precision, are what is computed."""

        def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            found: Tensor = type(module)._attn(module, q, k, v, mask)[0]
            return found

        parts = []
        for group, (q, k, v) in self._blocks(query, key, value):
            found = _joined(q, k, v, *self._before(group, module.layer_idx, 1), self.cells, kernel)
            parts.append(found.transpose(0, 1).flatten(1, 2))
        return torch.cat(parts, dim=1)[None], None

    def _blocks(self, *tables: Tensor) -> Iterator[tuple[Group, list[Tensor]]]:
        """Cut (1, heads, positions, head width) into (rows x cells, heads, suffix, head width) for each group."""
        start = 0
        for group in self.groups:
            stop = start + group.positions * self.cells
            parts = [_rows(table[0, :, start:stop], group.suffix) for table in tables]
            yield group, parts
            start = stop

    def _before(self, group: Group, layer: int, groups: int) -> tuple[Tensor, Tensor]:
        return _grouped(group.before("keys", layer), groups), _grouped(group.before("values", layer), groups)


def _rows(table: Tensor, suffix: int) -> Tensor:
    """Cut (heads, positions, head width) into rows, (rows, heads, suffix, head width), without a copy."""
    rows: Tensor = table.unflatten(1, (-1, suffix)).transpose(0, 1)  # type: ignore[no-untyped-call]
    return rows


def _grouped(table: Tensor, groups: int) -> Tensor:
    """Repeat each head of keys or values for all heads of queries that share it."""
    return table if groups == 1 else table.repeat_interleave(groups, dim=1)


def _two_parts(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, scale: float | None, cells: int
) -> Tensor:
    r"""Attend to a row's own positions, and to the prefix in one product for all cells of a sample; then mix the two.

    With $Z_1, Z_2$ the sums of exponentials of both parts, the whole is $(Z_1 o_1 + Z_2 o_2) / (Z_1 + Z_2)$.

    Args:
        query, key, value: (samples x cells, heads, tokens, head width).
        keys, values: (samples, heads, earlier, head width).
        scale: of the scores.
        cells: rows that share a prefix.

    Returns:
        (samples x cells, tokens, heads, head width).
    """
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    own: Tensor
    own_sum: Tensor
    own, own_sum = kernel(query, key, value, is_causal=True, scale=scale)
    rows, heads, tokens, width = query.shape
    if not keys.shape[2]:
        return own.transpose(1, 2)
    samples = rows // cells
    together = query.view(samples, cells, heads, tokens, width).transpose(1, 2).flatten(2, 3)
    past, past_sum = kernel(together, keys, values, scale=scale)
    past = past.transpose(1, 2).reshape(rows, tokens, heads, width)
    share = past_sum.transpose(1, 2).reshape(rows, tokens, heads) - own_sum.transpose(1, 2)
    return own.transpose(1, 2).lerp(past, share.sigmoid_().to(past.dtype)[..., None])


def _joined(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, cells: int, kernel: Own) -> Tensor:
    """Attend by any function, prefix and own positions side by side; shapes as in `_two_parts`, heads first."""
    tokens, earlier = query.shape[2], keys.shape[2]
    whole = [
        torch.cat([table.repeat_interleave(cells, dim=0), own], dim=2) for table, own in ((keys, key), (values, value))
    ]
    seen = torch.ones(tokens, earlier + tokens, dtype=torch.bool, device=query.device).tril(earlier)
    mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device)
    return kernel(query, whole[0], whole[1], mask.masked_fill(~seen, torch.finfo(query.dtype).min))
