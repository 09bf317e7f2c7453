"""Passes in float32 through bfloat16 weights equal those of a model whose weights were widened, gradients included."""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from counterfact.lm.forward.products import wide_passes
from counterfact.lm.model.hooks import Site, find_module, hooked
from counterfact.lm.model.language_model import LM
from tests.lm.test_apply import ids
from tests.support.models import FAMILIES, tiny_lm


def passed(lm: LM, tokens: Tensor, embedded: Tensor, within: AbstractContextManager[None]) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their squares by what is added to an MLP's output, from given embeddings."""
    change = torch.zeros(lm.width, requires_grad=True)
    moved = (Site(lm.layout.fc_out(0)), lambda output: output + change)
    with within, hooked(lm.model, (Site(lm.layout.embed), lambda _: embedded), moved):
        logits: Any = lm.model(tokens, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), change)
    return logits.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_widened_and_nothing_is_rounded(family: str) -> None:
    narrow = tiny_lm(family, "bfloat16")
    wide = replace(narrow, model=deepcopy(narrow.model).float(), dtype=torch.float32)
    tokens, before = ids(narrow, 3), {name: it.clone() for name, it in narrow.model.state_dict().items()}
    # Gemma scales its embeddings in the dtype of the weights.
    embedded = find_module(narrow.model, narrow.layout.embed)(tokens).float()
    expected, slope = passed(wide, tokens, embedded, nullcontext())
    found, mine = passed(narrow, tokens, embedded, wide_passes(narrow))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(mine, slope, rtol=0, atol=1e-4 * float(slope.abs().max()))
    rounded = narrow.model(tokens, use_cache=False).logits.float()
    assert float((rounded - expected).abs().max()) > 10 * float((found - expected).abs().max())
    assert all(torch.equal(it, before[name]) for name, it in narrow.model.state_dict().items())
    assert not any("forward" in vars(module) for module in narrow.model.modules())


def test_a_wide_model_stays_as_it_is() -> None:
    lm = tiny_lm("gpt2", "float32")
    with wide_passes(lm):
        assert not any("forward" in vars(module) for module in lm.model.modules())
