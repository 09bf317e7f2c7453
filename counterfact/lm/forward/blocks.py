"""Run part of a model: from tokens to states, from one block to another, from states to logits.

The parts are the model's own modules, so hooks act here as in a whole forward pass. What differs between a batch of
rows in a rectangle, rows one after the other, rows after a constant prefix, and texts that grow, is attention alone: a
function of ours then stands in its place, between the model's own projections (`forward.attention`).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from counterfact.lm.forward.attention import attend, attend_newest, attend_rectangle
from counterfact.lm.forward.caches import Cache, DecodeCache, KVRecorder
from counterfact.lm.forward.ragged import RaggedRows
from counterfact.lm.model.families import KERNEL, Attend, AttentionSite, replaced
from counterfact.lm.model.hooks import Site, find_module, first, hooked, only
from counterfact.lm.model.language_model import LM


def pad_right(rows: Sequence[Sequence[int]], device: torch.device, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Lay rows of token ids out as a rectangle.

    Args:
        rows: ids.
        device: where the tensors shall be.
        length: tokens of a padded row; by default those of the longest.

    Returns:
        ids (rows, length), padded on the right with 0, and how many tokens each row has, (rows,).

    >>> pad_right([[5, 6], [7]], torch.device("cpu"))
    (tensor([[5, 6],
            [7, 0]]), tensor([2, 1]))
    """
    length = max(map(len, rows)) if length is None else length
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    return ids.to(device), torch.tensor([len(row) for row in rows]).to(device)


def embed(lm: LM, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the states before the first block.

    Args:
        ids: (rows, tokens).
        positions: (rows, tokens) or (tokens,), by default counted from 0.

    Returns:
        (rows, tokens, width).
    """
    layout = lm.layout
    hidden: Tensor = find_module(lm.model, layout.embed)(ids)
    if layout.positions is not None:
        positions = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
        table: Any = find_module(lm.model, layout.positions).weight
        hidden = hidden + embedding(positions + layout.first_position, table)
    if layout.embedding_norm is not None:
        hidden = find_module(lm.model, layout.embedding_norm)(hidden)
    return hidden


def run_blocks(
    lm: LM,
    hidden: Tensor,
    start: int,
    stop: int,
    *,
    positions: Tensor | None = None,
    cache: Cache | None = None,
    rows: RaggedRows | None = None,
) -> Tensor:
    """Run blocks `start` to `stop - 1` on the states before `start`; return the states before `stop`.

    Args:
        lm: the model.
        hidden: (rows, tokens, width), each token seeing the ones before it and itself, which suits rows padded on the
            right; or, with `rows`, (1, tokens of all rows, width).
        start: the first block to run, from 0.
        stop: the block before which to stop.
        positions: (rows, tokens) or (tokens,); by default they go on after the cache's tokens. With `rows` they must be
            given, (1, tokens).
        cache: is given each block's new keys and values: a `KVRecorder`, or the `DecodeCache` of a rectangle.
        rows: the rows, where they stand one after the other, and their prefix. If they have a `tail`, the last block's
            states are returned for the tail alone.

    Raises:
        ValueError: positions are missing.
    """
    if rows is not None:
        return _run_ragged(lm, hidden, start, stop, positions, cache, rows)
    tokens = hidden.shape[1]
    past = cache.length(start) if cache is not None else 0
    if positions is None:
        positions = torch.arange(past, past + tokens, device=hidden.device)
    if positions.dim() == 1:
        # One row of positions for all: GPT-J copies its whole table once per row of positions.
        positions = positions[None]
    # The library's kernel is causal without a mask where nothing came before, and where one token sees all that did.
    if lm.attends_as_usual and (tokens == 1 or not past):
        return call_blocks(lm, hidden, range(start, stop), positions, cache)
    with attend_by(lm, attend_rectangle):
        return call_blocks(lm, hidden, range(start, stop), positions, cache)


def record_rows(
    lm: LM, hidden: Tensor, start: int, positions: Tensor, rows: RaggedRows
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Run rows through block `start` and all after it for their keys and values; of the last nothing else is computed.

    Args:
        lm: the model.
        hidden: states before the first of them, (1, tokens of all rows, width).
        start: the first block to run, from 0.
        positions: (1, tokens).
        rows: the rows, with a tail of 0, and their prefix.

    Returns:
        Keys and values by layer, (heads, tokens, head width) each.
    """
    recorder = KVRecorder()
    run_blocks(lm, hidden, start, lm.n_layers, positions=positions, cache=recorder, rows=rows)
    return recorder.of_line()


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

    def by_layer(site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(rows.whole if site.layer < whole else rows, site, query, key, value)

    with attend_by(lm, by_layer):
        hidden = call_blocks(lm, hidden, range(start, whole), positions, cache)
        if rows.tail is None:
            return hidden
        # What attention and MLP would write to other tokens is not computed.
        patches = [patch for name in (lm.layout.out_proj, lm.layout.mlp) for patch in only(name(whole), rows.asked_for)]
        with hooked(lm.model, *patches, outermost=True):
            hidden = call_blocks(lm, hidden, range(whole, stop), positions, cache)
    return hidden[:, rows.asked_for]


def call_blocks(
    lm: LM,
    hidden: Tensor,
    layers: Sequence[int],
    positions: Tensor,
    cache: Cache | None = None,
) -> Tensor:
    """Call the model's blocks one after the other, with whatever attention is in place.

    Args:
        lm: the model.
        hidden: states before the first of them, (rows, tokens, width).
        layers: which blocks.
        positions: (rows or 1, tokens).
        cache: is given each block's new keys and values.
    """
    layout = lm.layout
    keywords = {**layout.block_keywords, layout.cache_keyword: cache, "position_ids": positions, "attention_mask": None}
    turns: dict[str | None, Any] = {}
    for layer in layers:
        kind = lm.rotary_kinds[layer]
        if layout.rotary is not None and kind not in turns:
            of_kind = {} if kind is None else {"layer_type": kind}
            turns[kind] = find_module(lm.model, layout.rotary)(hidden, position_ids=positions, **of_kind)
        extra = keywords if layout.rotary is None else {**keywords, "position_embeddings": turns[kind]}
        hidden = first(find_module(lm.model, layout.block(layer))(hidden, **extra))
    return hidden


def stream_change(lm: LM, layer: int, output: Tensor, change: Tensor) -> Tensor:
    r"""Return by how much the residual stream moves when an MLP's output does.

    In most families by as much; where a norm N stands between the two, by $N(v + \Delta) - N(v)$.

    Args:
        lm: the model.
        layer: whose MLP.
        output: v, what the MLP's last projection gives, (..., width).
        change: Δ, of the same shape.
    """
    name = lm.layout.mlp_norm(layer)
    if name is None:
        return change
    norm = find_module(lm.model, name)
    moved: Tensor = norm(output + change.to(output.dtype)) - norm(output)
    return moved


def block_change(lm: LM, layer: int, before: Tensor, attended: Tensor, after: Tensor, change: Tensor) -> Tensor:
    """Return by how much the residual stream moves when outputs of a block's attention and MLP do, at single tokens.

    Attention is not computed anew: it reads the stream before the block, of which nothing moves. The MLP is, from what
    the attention's change makes of its input, where the two stand one after the other.

    Args:
        lm: the model.
        layer: which block.
        before: the stream before it, (rows, width).
        attended: what its attention's last projection gives, (rows, width).
        after: the stream after it, (rows, width).
        change: what is added to the outputs of the last projections of attention and MLP, (rows, 2, width).

    Returns:
        (rows, width).
    """
    of_attention, of_mlp = change[:, :, None].unbind(1)  # (rows, 1, width)
    patches = [
        (Site(lm.layout.out_proj(layer)), lambda _: attended[:, None] + of_attention),
        (Site(lm.layout.fc_out(layer)), lambda output: output + of_mlp),
    ]
    with hooked(lm.model, *patches):
        return run_blocks(lm, before[:, None], layer, layer + 1)[:, 0] - after


def logits(lm: LM, hidden: Tensor) -> Tensor:
    """Return the logits of any selection of last states: (..., width) to (..., vocabulary), in the model's dtype."""
    return head(lm, final_norm(lm, hidden))


def final_norm(lm: LM, hidden: Tensor) -> Tensor:
    """Return what the output layer is given: last states after the last norm."""
    normed: Tensor = find_module(lm.model, lm.layout.final_norm)(hidden)
    return normed


def head(lm: LM, normed: Tensor) -> Tensor:
    r"""Return the output layer's logits, (..., vocabulary); some families cap them, $z \leftarrow c \tanh(z / c)$."""
    result: Tensor = find_module(lm.model, lm.layout.head)(normed)
    cap: float | None = getattr(lm.config, "final_logit_softcapping", None)
    return result if cap is None else cap * torch.tanh(result / cap)


@contextmanager
def attend_by(lm: LM, attend: Attend) -> Iterator[None]:
    """Let all attentions of the model be computed by `attend` within the block."""
    call = lm.layout.attention_call
    with ExitStack() as stack:
        for layer, change in enumerate(lm.score_changes):
            core = find_module(lm.model, lm.layout.attention_core(layer))
            stack.enter_context(replaced(call, core, layer, change, attend))
        if call == "interface":
            lm.model.set_attn_implementation(KERNEL)
            stack.callback(lm.model.set_attn_implementation, lm.layout.attention_kernel)
        yield


@contextmanager
def decode_attention(lm: LM, cache: DecodeCache) -> Iterator[None]:
    """Let each block attend from one new token a row to all that a decode cache holds, within the block.

    On an accelerator the library's own kernel does it, where the family uses it. Within the block, call `call_blocks`
    with one token a row.
    """
    if lm.device.type != "cpu" and lm.attends_as_usual:
        yield
        return
    with attend_by(lm, partial(attend_newest, cache)):
        yield
