"""The parts of a model put together are the model: with any cut, any cache, any positions, in every family."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.forward.blocks import (
    Cache,
    ConstantPrefix,
    Recorder,
    causal_mask,
    embed,
    logits,
    run_blocks,
)
from counterfact.lm.model.loading import LM
from tests.support.models import FAMILIES, tiny_lm

ROWS, TOKENS = 3, 11


def ids(lm: LM) -> Tensor:
    return torch.randint(2, lm.vocabulary, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))


def whole(lm: LM, tokens: Tensor) -> Tensor:
    # Without its cache: GPT-J attends in float32, where a cache's other memory layout changes the last digits.
    result: Tensor = lm.model(tokens, use_cache=False).logits
    return result


def close(lm: LM) -> dict[str, float]:
    return {"rtol": 0, "atol": 2e-5 if lm.layout.family == "gptj" else 1e-9}


def run(lm: LM, tokens: Tensor, start: int = 0, cache: Cache | None = None) -> Tensor:
    positions = torch.arange(start, start + tokens.shape[1])
    return run_blocks(lm, embed(lm, tokens, positions), 0, lm.n_layers, positions=positions, cache=cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stack_is_the_model(family: str) -> None:
    lm = tiny_lm(family)
    expected = whole(lm, ids(lm))
    for cut in range(lm.n_layers + 1):
        hidden = run_blocks(lm, run_blocks(lm, embed(lm, ids(lm)), 0, cut), cut, lm.n_layers)
        torch.testing.assert_close(logits(lm, hidden), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logits(lm, hidden[1, 4]), expected[1, 4], rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_explicit_mask_is_the_default(family: str) -> None:
    lm = tiny_lm(family)
    hidden = run_blocks(lm, embed(lm, ids(lm)), 0, lm.n_layers, mask=causal_mask(lm, TOKENS))
    torch.testing.assert_close(logits(lm, hidden), whole(lm, ids(lm)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_prefix_stands_for_its_tokens(family: str) -> None:
    lm = tiny_lm(family)
    recorder = Recorder()
    run(lm, ids(lm)[:, :6], 0, recorder)
    prefix = ConstantPrefix(recorder.keys, recorder.values)
    for _ in range(2):
        rest = run(lm, ids(lm)[:, 6:], 6, prefix)
        torch.testing.assert_close(logits(lm, rest), whole(lm, ids(lm))[:, 6:], **close(lm))


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_of_unequal_length_need_only_a_mask_and_positions(family: str) -> None:
    lm = tiny_lm(family)
    lengths = torch.tensor([6, 2, 0])
    recorder = Recorder()
    run(lm, ids(lm)[:, :6], 0, recorder)
    suffix = torch.stack([ids(lm)[row, n : n + 4] for row, n in enumerate(lengths.tolist())])
    positions = lengths[:, None] + torch.arange(4)
    hidden = run_blocks(
        lm,
        embed(lm, suffix, positions),
        0,
        lm.n_layers,
        positions=positions,
        mask=causal_mask(lm, 4, 6, torch.arange(6) < lengths[:, None]),
        cache=ConstantPrefix(recorder.keys, recorder.values),
    )
    expected = torch.stack([whole(lm, ids(lm))[row, n : n + 4] for row, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(logits(lm, hidden), expected, **close(lm))


def test_gradients_flow_through_part_of_the_stack_with_a_prefix() -> None:
    lm = tiny_lm()
    recorder = Recorder()
    run(lm, ids(lm)[:, :6], 0, recorder)
    hidden = embed(lm, ids(lm)[:, 6:], torch.arange(6, TOKENS)).requires_grad_()
    out = run_blocks(lm, hidden, 1, lm.n_layers, cache=ConstantPrefix(recorder.keys, recorder.values))
    (gradient,) = torch.autograd.grad(logits(lm, out)[:, -1].logsumexp(-1).sum(), hidden)
    assert gradient.isfinite().all()
    assert gradient[:, 0].abs().sum() > 0
