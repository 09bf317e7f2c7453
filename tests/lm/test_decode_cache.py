"""The decode cache with its moves changes nothing, in every family, and keeps nothing back."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.forward.blocks import call_blocks, decode_attention, embed, logits, run_blocks
from counterfact.lm.forward.caches import STEP, DecodeCache
from counterfact.lm.model.language_model import LM
from tests.support.models import FAMILIES, rounding, tiny_lm

ROWS, TOKENS = 3, 2 * STEP + 5


def ids(lm: LM) -> Tensor:
    return torch.randint(2, lm.vocabulary, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))


def run(lm: LM, tokens: Tensor, start: int, cache: DecodeCache) -> Tensor:
    positions = torch.arange(start, start + tokens.shape[1])
    return run_blocks(lm, embed(lm, tokens, positions), 0, lm.n_layers, positions=positions, cache=cache)


def grown(lm: LM, tokens: Tensor, cache: DecodeCache, given: int) -> Tensor:
    """Two passes over the first tokens, then one token at a time."""
    parts = [run(lm, tokens[:, :3], 0, cache), run(lm, tokens[:, 3:given], 3, cache)]
    with decode_attention(lm, cache):
        for column in range(given, tokens.shape[1]):
            position = torch.tensor([[column]])
            hidden = embed(lm, tokens[:, column : column + 1], position[0])
            parts.append(call_blocks(lm, hidden, range(lm.n_layers), position, cache))
    return logits(lm, torch.cat(parts, 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("given", [8, STEP])
def test_a_decode_cache_changes_nothing(family: str, given: int) -> None:
    lm, length = tiny_lm(family), min(TOKENS, tiny_lm(family).max_length)
    expected = lm.model(ids(lm)[:, :length], use_cache=False).logits
    cache = DecodeCache(ROWS, length)
    for _ in range(2):
        found = grown(lm, ids(lm)[:, :length], cache.begin(ROWS), given)
        torch.testing.assert_close(found, expected, rtol=0, atol=rounding(family))
        assert cache.length(0) == length


def test_what_a_batch_left_behind_never_reaches_the_next() -> None:
    lm = tiny_lm()
    tokens = ids(lm)[:, : 2 * STEP]
    cache = DecodeCache(ROWS, TOKENS)
    expected = grown(lm, tokens[:, :STEP], cache, 8)
    for layer in range(lm.n_layers):
        nan = torch.full_like(cache.whole(layer)[0][:, :, :1], torch.nan)
        cache.update(nan, nan, layer)
    torch.testing.assert_close(grown(lm, tokens[:, :STEP], cache.begin(ROWS), 8), expected)


def test_memory_is_taken_once() -> None:
    cache = DecodeCache(2, 3 * STEP)
    token = torch.ones(2, 1, 1, 5)
    addresses: list[set[int]] = []
    for _ in range(3):
        cache.begin(2)
        addresses.append(set())
        for _ in range(3 * STEP):
            keys, _ = cache.update(token, token, 0)
            addresses[-1].add(keys.data_ptr())
        assert torch.equal(cache.whole(0)[1], torch.ones(2, 1, 3 * STEP, 5))
    assert addresses[1] | addresses[2] <= addresses[0] | addresses[1]
    assert len(addresses[0] | addresses[1] | addresses[2]) <= 3


def test_a_decode_cache_refuses_what_it_has_no_room_for() -> None:
    cache = DecodeCache(2, 4)
    block = torch.zeros(2, 1, 3, 5)
    cache.update(block, block, 0)
    with pytest.raises(ValueError, match="at most 4 tokens, got 2 rows and 6 tokens"):
        cache.update(block, block, 0)
    with pytest.raises(ValueError, match="expected 3 rows"):
        cache.begin(3).update(block, block, 0)


def test_attention_is_as_before_after_a_fault() -> None:
    lm = tiny_lm("qwen2")
    before = lm.model(ids(lm), use_cache=False).logits
    with pytest.raises(ZeroDivisionError), decode_attention(lm, DecodeCache(1, 1)):
        _ = 1 / 0
    assert torch.equal(before, lm.model(ids(lm), use_cache=False).logits)
