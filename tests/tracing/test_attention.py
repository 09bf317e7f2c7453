"""Attention in two parts, prefix and own positions, is attention to both side by side."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from counterfact.tracing._attention import PackedAttention, _grouped, _joined, _two_parts
from tests.support.models import tiny_lm

SAMPLES, CELLS, HEADS, WIDTH = 2, 3, 4, 8


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("earlier", [0, 1, 6])
@pytest.mark.parametrize("tokens", [1, 5])
def test_two_parts_are_the_whole(earlier: int, tokens: int) -> None:
    query, key, value = (drawn(SAMPLES * CELLS, HEADS, tokens, WIDTH) * factor for factor in (1, 3, 2))
    keys, values = (drawn(SAMPLES, HEADS, earlier, WIDTH) * factor for factor in (2, 1))

    def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)

    whole = _joined(query, key, value, keys, values, CELLS, kernel)
    parts = torch.empty(SAMPLES * CELLS, tokens, HEADS, WIDTH, dtype=torch.float64)
    _two_parts(query, key, value, keys, values, 0.3, CELLS, parts)
    torch.testing.assert_close(parts.transpose(1, 2), whole, atol=1e-12, rtol=0)
    last = torch.empty(SAMPLES * CELLS, 1, HEADS, WIDTH, dtype=torch.float64)
    _two_parts(query[:, :, -1:], key, value, keys, values, 0.3, CELLS, last)
    torch.testing.assert_close(last, parts[:, -1:], atol=1e-12, rtol=0)
    torch.testing.assert_close(
        _joined(query[:, :, -1:], key, value, keys, values, CELLS, kernel), whole[:, :, -1:], atol=1e-12, rtol=0
    )


def test_a_head_of_keys_serves_neighbouring_heads_of_queries() -> None:
    table = drawn(1, 2, 3, 4)
    assert torch.equal(_grouped(table, 2), table[:, [0, 0, 1, 1]])


def test_the_models_own_attention_comes_back_after_an_error() -> None:
    lm = tiny_lm("qwen2")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in between"), PackedAttention(lm, []).in_place():
            raise RuntimeError("in between")
        assert lm.model.config._attn_implementation == lm.layout.attention_kernel
