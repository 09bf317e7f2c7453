"""The parts of a model put together are the model: with any cut, any cache, any positions, in every family."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.forward.blocks import attend_by, embed, logits, run_blocks
from counterfact.lm.forward.caches import KVRecorder
from counterfact.lm.model.language_model import LM
from tests.support.models import FAMILIES, rounding, tiny_lm

ROWS, TOKENS = 3, 11


def ids(lm: LM) -> Tensor:
    return torch.randint(2, lm.vocabulary, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))


def whole(lm: LM, tokens: Tensor) -> Tensor:
    # Without its cache: GPT-J attends in float32, where a cache's other memory layout changes the last digits.
    result: Tensor = lm.model(tokens, use_cache=False).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_are_the_model(family: str) -> None:
    lm = tiny_lm(family)
    expected = whole(lm, ids(lm))
    for cut in range(lm.n_layers + 1):
        hidden = run_blocks(lm, run_blocks(lm, embed(lm, ids(lm)), 0, cut), cut, lm.n_layers)
        torch.testing.assert_close(logits(lm, hidden), expected, rtol=0, atol=rounding(family))
    torch.testing.assert_close(logits(lm, hidden[1, 4]), expected[1, 4], rtol=0, atol=rounding(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_recording_keys_and_values_changes_nothing(family: str) -> None:
    lm, recorder = tiny_lm(family), KVRecorder()
    hidden = run_blocks(lm, embed(lm, ids(lm)), 0, lm.n_layers, cache=recorder)
    torch.testing.assert_close(logits(lm, hidden), whole(lm, ids(lm)), rtol=0, atol=rounding(family))
    assert [recorder.keys[layer].shape[2] for layer in range(lm.n_layers)] == [TOKENS] * lm.n_layers


@pytest.mark.parametrize("family", ["gptj", "qwen2"])
def test_the_models_own_attention_comes_back_after_an_error(family: str) -> None:
    lm = tiny_lm(family)
    before = whole(lm, ids(lm))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in between"), attend_by(lm, lambda *_: torch.empty(0)):
            raise RuntimeError("in between")
        assert lm.model.config._attn_implementation == lm.layout.attention_kernel
    assert torch.equal(before, whole(lm, ids(lm)))
