r"""Attention over rows of unequal length that stand one after the other, each perhaps after a constant prefix.

Rows of one length are computed together (`forward.ragged`). Keys and values of a prefix are never copied beside a row's
own, and rows that share a prefix meet it in one product. With $Z_1, Z_2$ the sums of exponentials over prefix and row,
and $o_1, o_2$ what attention to each alone gives, the whole is $(Z_1 o_1 + Z_2 o_2) / (Z_1 + Z_2)$: so it is computed
where no gradient is needed. `forward.attention_gradient` holds the way there and back where one is.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from counterfact.lm.forward.attention_gradient import attend_with_gradient
from counterfact.lm.forward.caches import KV, DecodeCache
from counterfact.lm.forward.operators import attention_and_sums
from counterfact.lm.forward.ragged import RaggedRows, causal_mask
from counterfact.lm.model.families import AttentionSite


def attend(rows: RaggedRows, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend within each row, and to its prefix.

    Args:
        rows: the rows.
        site: whose attention it is.
        query: (1, heads, tokens, head width); keys and values may have fewer heads, each for several of the query.
        key, value: (1, key heads, tokens, head width).

    Returns:
        (1, tokens, heads, head width).
    """
    if rows.tail == 0:
        return query.new_zeros(query.transpose(1, 2).shape)
    if site.change is not None:
        return _by_changed_scores(rows, site, query, key, value)
    if rows.prefix is None and rows.tail is None:
        return _within_rows(rows, query, key, value, site.scaling)
    needs_gradient = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    is_padded = rows.prefix is not None and rows.prefix.padded
    if needs_gradient or is_padded or rows.tail not in {None, 1}:
        return attend_with_gradient(rows, site.layer, query, key, value, site.scaling)
    return _in_two_parts(rows, site.layer, query, key, value, site.scaling)


def _by_changed_scores(rows: RaggedRows, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend where something is done to the scores: with all of them written out, and a prefix beside each row."""
    parts = []
    for number, group in enumerate(rows.layout.groups):
        # (rows, heads, length, head width).
        q, k, v = (group.of(states.transpose(1, 2)).transpose(1, 2) for states in (query, key, value))
        if rows.prefix is not None:
            before = rows.prefix.of(site.layer, number)
            each = group.rows // len(before[0])
            k, v = (
                torch.cat([past.repeat_interleave(each, 0), own], 2) for past, own in zip(before, (k, v), strict=True)
            )
        left_out = group.length - rows.asked(group)
        mask, positions = rows.masks[number].squeeze(1), rows.key_positions[number]
        found = _written_out(site, q[:, :, left_out:], k, v, positions, mask)
        parts.append(pad(found, (0, 0, 0, 0, left_out, 0)).flatten(0, 1))
    return torch.cat(parts)[None]


def _written_out(
    site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, mask: Tensor
) -> Tensor:
    """Attend by plain products.

    Args:
        site: whose attention it is, with a change of scores.
        query: (rows, heads, queries, head width).
        key, value: (rows, key heads, keys, head width).
        positions: of the keys, (rows or 1, keys).
        mask: added to the scores, (rows or 1, 1, queries, keys).

    Returns:
        (rows, queries, heads, head width).
    """
    assert site.change is not None
    key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], 1) for states in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * site.scaling
    weights = site.change.weights(scores, positions, mask.to(scores))
    return torch.matmul(weights.to(value.dtype), value).transpose(1, 2)


def attend_rectangle(site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from the last tokens of rows of one length to all of each row, causally.

    Args:
        site: whose attention it is.
        query: (rows, heads, queries, head width).
        key, value: (rows, key heads, tokens, head width), the queries' own the last of them.

    Returns:
        (rows, queries, heads, head width).
    """
    queries, keys = query.shape[2], key.shape[2]
    mask = causal_mask(queries, keys, query)
    if site.change is not None:
        positions = torch.arange(keys, device=query.device)[None]
        return _written_out(site, query, key, value, positions, mask[None, None])
    grouped = query.shape[1] != key.shape[1]
    found = scaled_dot_product_attention(query, key, value, attn_mask=mask == 0, scale=site.scaling, enable_gqa=grouped)
    return found.transpose(1, 2)


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


def _in_two_parts(rows: RaggedRows, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attend from all tokens, or from the last one of each row, without gradients; no prefix is padded."""
    shape = query.shape[2], query.shape[1], query.shape[3]
    result = query.new_empty(shape) if rows.tail is None else query.new_zeros(shape)
    for number, group in enumerate(rows.layout.groups):
        # (rows, heads, length, head width).
        q, k, v = (group.of(states.transpose(1, 2)).transpose(1, 2) for states in (query, key, value))
        asked = rows.asked(group)
        found = group.of(result[None])[:, group.length - asked :]
        prefix = None if rows.prefix is None else rows.prefix.of(layer, number)
        _mix(q[:, :, group.length - asked :], k, v, prefix, scaling, found)
    return result[None]


def _mix(query: Tensor, key: Tensor, value: Tensor, prefix: KV | None, scaling: float, found: Tensor) -> None:
    """Attend to the rows' own tokens, and to each prefix in one product for all its rows; then mix the two.

    Args:
        query: (rows, heads, queries, head width), of all tokens or of the last one.
        key, value: (rows, key heads, tokens, head width).
        prefix: keys and values, (prefixes, key heads, prefix tokens, head width).
        scaling: factor of the scores.
        found: the result is written here, (rows, queries, heads, head width).
    """
    rows, heads, queries, width = query.shape
    key_heads = key.shape[1]
    sharing = heads // key_heads
    own_key, own_value = (it if sharing == 1 else it.repeat_interleave(sharing, 1) for it in (key, value))
    own, own_sum = attention_and_sums(query, own_key, own_value, queries > 1, scaling)
    own = own.transpose(1, 2)
    if prefix is None or not prefix[0].shape[2]:
        found[:] = own
        return
    prefixes = len(prefix[0])
    # (prefixes, key heads, rows of a prefix x heads that share a key head x queries, head width).
    together = query.reshape(prefixes, -1, key_heads, sharing, queries, width).transpose(1, 2).flatten(2, 4)
    past, past_sum = attention_and_sums(together, *prefix, False, scaling)
    apart = prefixes, key_heads, -1, sharing, queries
    past = past.view(*apart, width).permute(0, 2, 4, 1, 3, 5).reshape(rows, queries, heads, width)
    share = past_sum.reshape(apart).permute(0, 2, 4, 1, 3).reshape(rows, queries, heads) - own_sum.transpose(1, 2)
    torch.lerp(own, past, share.sigmoid_().to(past.dtype)[..., None], out=found)


def attend_newest(cache: DecodeCache, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from one new token a row to all that a decode cache holds, the new token's key and value among them.

    By plain products, which on a processor are faster for one token than a kernel made for long rows; the softmax is
    in float32 or wider.

    Args:
        cache: keys and values of the texts so far.
        site: whose attention it is.
        query: (rows, heads, 1, head width).
        key, value: what the cache has given out, (rows, key heads, tokens, head width).

    Returns:
        (rows, 1, heads, head width).
    """
    if site.change is not None:
        return attend_rectangle(site, query, key, value)
    keys, values = cache.whole(site.layer)
    rows, heads, _, width = query.shape
    # Queries that share a key's head stand side by side.
    shared = query.reshape(rows, keys.shape[1], -1, width)
    scores = torch.matmul(shared, keys.transpose(2, 3))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(site.scaling)
    scores[..., cache.length(site.layer) :] = -torch.inf
    return torch.matmul(scores.softmax(-1).to(value.dtype), values).view(rows, 1, heads, width)
