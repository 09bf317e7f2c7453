"""Run part of a model: from tokens to states, from one layer to another, from states to logits.

The parts are the model's own modules, so hooks act here as in a whole forward pass. Keys and values of earlier
tokens are kept by objects of ours: constant, only recorded, or growing (`lm.growing`).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from counterfact.lm.forward.attention import ragged_attention
from counterfact.lm.forward.rows import RaggedRows
from counterfact.lm.model.hooks import find_module, first, hooked, only
from counterfact.lm.model.loading import LM


class Cache(Protocol):
    """Keys and values of earlier tokens, as the blocks ask for them."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values (rows, heads, tokens, head width); return all that it may look at."""

    def length(self, layer: int) -> int:
        """Return how many earlier tokens a layer has."""


class ConstantPrefix:
    """Earlier tokens that never change and are never added to, as in an optimisation over a suffix.

    Args:
        keys, values: by layer, (rows, heads, tokens, head width). Rows of unequal length are padded, on either side,
            and masked by the caller (`causal_mask`).
    """

    def __init__(self, keys: Mapping[int, Tensor], values: Mapping[int, Tensor]) -> None:
        self.keys = keys
        self.values = values

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return prefix and new tokens, side by side."""
        return torch.cat([self.keys[layer_idx], key], dim=2), torch.cat([self.values[layer_idx], value], dim=2)

    def length(self, layer: int) -> int:
        """Return the prefix's width."""
        return self.keys[layer].shape[2] if layer in self.keys else 0


class Recorder:
    """Keeps the keys and values of one pass, by layer; the pass itself has no earlier tokens."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Keep the tensors and hand them back."""
        self.keys[layer_idx], self.values[layer_idx] = key, value
        return key, value

    def length(self, layer: int) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


def embed(lm: LM, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the states before the first block.

    Args:
        ids: (rows, tokens).
        positions: (rows, tokens) or (tokens,), by default counted from 0.

    Returns:
        (rows, tokens, width).
    """
    hidden: Tensor = find_module(lm.model, lm.layout.embed)(ids)
    if lm.layout.positions is not None:
        positions = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
        hidden = hidden + find_module(lm.model, lm.layout.positions)(positions)
    return hidden


def run_blocks(
    lm: LM,
    hidden: Tensor,
    start: int,
    stop: int,
    *,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
    cache: Cache | None = None,
    ragged: RaggedRows | None = None,
) -> Tensor:
    """Run blocks `start` to `stop - 1` on the states before `start`; return the states before `stop`.

    Args:
        hidden: (rows, tokens, width).
        positions: (rows, tokens) or (tokens,); by default they go on after the cache's tokens.
        mask: added to the attention scores, (rows or 1, 1, tokens, earlier + tokens); by default each token sees all
            earlier ones and itself, which is right for rows padded on the right.
        cache: keys and values of earlier tokens; layers are counted from the model's first.
        ragged: the rows, where they are laid one after the other, (1, tokens, width); `positions` are needed then, (1,
            tokens), `mask` is not used, and of `cache` only a `Recorder`. A `tail` is for the last block alone.
    """
    if ragged is not None:
        return _run_ragged(lm, hidden, start, stop, positions, cache, ragged)
    tokens = hidden.shape[1]
    past = cache.length(start) if cache is not None else 0
    if positions is None:
        positions = torch.arange(past, past + tokens, device=hidden.device)
    if positions.dim() == 1:
        # One row of positions for all: GPT-J copies its whole table once per row of positions.
        positions = positions[None]
    if mask is None and tokens > 1 and (past or lm.layout.attention_kernel == "eager"):
        mask = causal_mask(lm, tokens, past)
    return _call_blocks(lm, hidden, range(start, stop), positions, cache, mask)


def _run_ragged(
    lm: LM,
    hidden: Tensor,
    start: int,
    stop: int,
    positions: Tensor | None,
    cache: Cache | None,
    rows: RaggedRows,
) -> Tensor:
    """Run blocks on rows laid one after the other; the last block of a pass with a tail, for the tail alone."""
    if positions is None:
        raise ValueError("rows of unequal length need positions")
    whole = stop if rows.tail is None else stop - 1
    with ragged_attention(lm, rows.whole):
        hidden = _call_blocks(lm, hidden, range(start, whole), positions, cache, None)
    if rows.tail is None:
        return hidden
    # What attention and MLP would write to other tokens is not computed.
    patches = [patch for name in (lm.layout.out_proj, lm.layout.mlp) for patch in only(name(whole), rows.asked_for)]
    with ragged_attention(lm, rows), hooked(lm.model, *patches):
        hidden = _call_blocks(lm, hidden, range(whole, stop), positions, cache, None)
    return hidden[:, rows.asked_for]


def _call_blocks(
    lm: LM, hidden: Tensor, layers: range, positions: Tensor, cache: Cache | None, mask: Tensor | None
) -> Tensor:
    extra: dict[str, Any] = {lm.layout.cache_keyword: cache, "position_ids": positions, "attention_mask": mask}
    if lm.layout.rotary is not None:
        extra["position_embeddings"] = find_module(lm.model, lm.layout.rotary)(hidden, position_ids=positions)
    for layer in layers:
        hidden = first(find_module(lm.model, lm.layout.block(layer))(hidden, **extra))
    return hidden


def logits(lm: LM, hidden: Tensor) -> Tensor:
    """Return the logits of any selection of last states: (..., width) to (..., vocabulary), in the model's dtype."""
    return head(lm, final_norm(lm, hidden))


def final_norm(lm: LM, hidden: Tensor) -> Tensor:
    """Return what the output layer is given: last states after the last norm."""
    normed: Tensor = find_module(lm.model, lm.layout.final_norm)(hidden)
    return normed


def head(lm: LM, normed: Tensor) -> Tensor:
    """Return the output layer's logits, (..., vocabulary)."""
    result: Tensor = find_module(lm.model, lm.layout.head)(normed)
    return result


def causal_mask(lm: LM, tokens: int, past: int = 0, past_valid: Tensor | None = None) -> Tensor:
    """Return a mask to add to attention scores: 0 where a token may look, the dtype's lowest number elsewhere.

    Args:
        tokens: how many new tokens a row has.
        past: how many earlier columns the cache has; all are seen, but for `past_valid`.
        past_valid: (rows, past), false where a row's earlier column is padding.

    Returns:
        (rows or 1, 1, tokens, past + tokens), in the model's dtype.
    """
    device = lm.device
    seen = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)[None, None]
    if past_valid is not None:
        rest = past_valid.new_ones(past_valid.shape[0], tokens)
        seen = seen & torch.cat([past_valid, rest], dim=1)[:, None, None]
    # The lowest number and not -inf: a padding token that may see nothing must not become NaN.
    return torch.zeros(seen.shape, dtype=lm.dtype, device=device).masked_fill(~seen, torch.finfo(lm.dtype).min)
