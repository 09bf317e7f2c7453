"""Packed products: the same numbers and gradients, and nothing that outlives the block or the weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from counterfact.lm.forward.blocks import embed, logits, run_blocks
from counterfact.lm.forward.products import fused_activations, packed_products, packs_products
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view
from tests.support.models import FAMILIES, USUAL, tiny_lm

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def scores(lm: LM) -> torch.Tensor:
    ids = torch.tensor([lm.tokens("The capital of Norway is")])
    return logits(lm, run_blocks(lm, embed(lm, ids), 0, lm.n_layers))


def test_same_numbers_and_nothing_is_left() -> None:
    lm = tiny_lm("gpt2", "float32")
    before = scores(lm)
    with packed_products(lm), packed_products(lm):
        changed = [name for name, module in lm.model.named_modules() if "forward" in vars(module)]
        np.testing.assert_allclose(scores(lm), before, atol=1e-4)
    if torch.backends.mkldnn.is_available():
        assert len(changed) == 4 * lm.n_layers + 1
    assert torch.equal(scores(lm), before)
    with pytest.raises(RuntimeError, match="in between"), packed_products(lm):
        raise RuntimeError("in between")
    assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_inputs(family: str) -> None:
    lm = tiny_lm(family, "float32")
    hidden = torch.randn(2, 5, lm.width, generator=torch.Generator().manual_seed(0))

    def gradient() -> torch.Tensor:
        leaf = hidden.clone().requires_grad_()
        (found,) = torch.autograd.grad(logits(lm, run_blocks(lm, leaf, 0, lm.n_layers))[..., :7].square().sum(), leaf)
        return found

    plain = gradient()
    with torch.inference_mode(), packed_products(lm):
        scores(lm)  # packs for a pass without gradients
    with packed_products(lm):
        np.testing.assert_allclose(gradient(), plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@needs_onednn
def test_a_changed_weight_is_packed_anew_and_a_copy_has_its_own() -> None:
    lm = tiny_lm("gpt2", "float32")
    assert packs_products(lm)
    with packed_products(lm):
        first = scores(lm)
        copy = deepcopy(lm.model)
    weight = weight_view(lm.model, lm.layout.fc_out(1))
    kept = weight.clone()
    with torch.no_grad():
        weight *= 2
    try:
        with packed_products(lm):
            assert (scores(lm) - first).abs().max() > 1e-3
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    with packed_products(lm):
        assert torch.equal(scores(lm), first)
    module = copy.get_submodule(lm.layout.fc_out(1))
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(module(torch.randn(1, module.weight.shape[0])), module.bias[None])


def test_double_precision_is_left_alone() -> None:
    lm = tiny_lm("gpt2", "float64")
    assert not packs_products(lm)
    with packed_products(lm):
        assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("family", USUAL)
@pytest.mark.parametrize("hooked_at", ["nothing", "the projection", "the activation"])
def test_a_fused_activation_is_the_activation_also_beside_a_hooked_layer(family: str, hooked_at: str) -> None:
    lm = tiny_lm(family, "float32")
    mlp = lm.model.get_submodule(lm.layout.mlp(1))
    activation = next(name for name, child in mlp.named_children() if "act" in name.lower())
    name = {"the projection": lm.layout.fc_in(1), "the activation": f"{lm.layout.mlp(1)}.{activation}"}.get(hooked_at)
    pairs = [(Site(name), lambda output: output * 1.5)] if name else []
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad(), hooked(lm.model, *pairs):
        expected = lm.model(ids).logits
        with packed_products(lm), fused_activations(lm):
            torch.testing.assert_close(lm.model(ids).logits, expected, rtol=0, atol=2e-5)
    assert not any("forward" in vars(module) for module in lm.model.modules())
