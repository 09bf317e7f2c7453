"""Integrated gradients: they add up, equal an independent computation in every family, and captum's where it is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import wrap_lm
from counterfact.tracing import _paths
from counterfact.tracing.facts import BadFact, Fact
from counterfact.tracing.gradients import PARTS, Attributed, Part, attribute, quadrature
from tests.support import oracle_tracing as oracle
from tests.support.models import FAMILIES, IN_FLOAT32, make_model, make_tokenizer, tiny_lm

FACT = Fact(known_id=0, subject="Anna Ferrand", attribute="Lisbon", prompt="In Turin Anna Ferrand was born in")


def attributed(lm: LM, **arguments: object) -> Attributed:
    found = attribute(lm, [FACT], **arguments)[0]  # type: ignore[arg-type]
    assert isinstance(found, Attributed), found
    return found


def slow(lm: LM, one: Attributed, part: Part, layer: int, nodes: int, token: int | None) -> Tensor:
    """One whole forward and backward pass for each node: (tokens, width)."""
    at, weights = quadrature(nodes)
    site, ids = oracle.site(lm, part, layer), torch.tensor([one.prompt.ids])
    total: Tensor | None = None
    for alpha, weight in zip(at, weights, strict=True):
        kept: list[Tensor] = []

        def scale(output: Tensor, alpha: float = alpha, kept: list[Tensor] = kept) -> Tensor:
            factor = torch.ones(output.shape[1], 1, dtype=output.dtype)
            factor[slice(None) if token is None else token] = alpha
            kept += [output.detach(), (factor * output).detach().requires_grad_()]
            return kept[1]

        with hooked(lm.model, (site, scale)), torch.enable_grad():
            lm.model(ids, use_cache=False).logits[0, -1].softmax(-1)[one.answer].backward()
        gradient = kept[1].grad
        assert gradient is not None
        step = weight * (kept[0] * gradient)[0]
        total = step if total is None else total + step
    assert total is not None
    return total


def tolerance(family: str) -> float:
    return 1e-6 if family in IN_FLOAT32 else 1e-12  # its own attention is in float32 whatever the model's dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_scaled_as_one_is_the_slow_computation_and_adds_up(family: str) -> None:
    lm = tiny_lm(family)
    one = attributed(lm, nodes=6)
    for part in PARTS:
        for layer in range(lm.n_layers):
            expected = slow(lm, one, part, layer, 6, None)
            found = one.parts[part]
            np.testing.assert_allclose(found.norm[:, layer], expected.norm(dim=1), atol=tolerance(family))
            np.testing.assert_allclose(found.contribution[:, layer], expected.sum(1), atol=tolerance(family))


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "qwen3"])
def test_a_single_state_is_the_slow_computation(family: str) -> None:
    lm = tiny_lm(family)
    one = attributed(lm, nodes=3, single=True)
    for part in PARTS:
        for layer, token in ((0, 0), (1, 2), (lm.n_layers - 1, len(one.prompt.ids) - 1)):
            expected = slow(lm, one, part, layer, 3, token)[token]
            norm = float(expected.norm())
            assert one.parts[part].norm[token, layer] == pytest.approx(norm, abs=tolerance(family))


def test_walks_in_shares_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    whole = [attributed(lm, nodes=3, single=single) for single in (False, True)]
    monkeypatch.setattr(_paths, "GRAPH_BYTES", 200_000)
    for one, single in zip(whole, (False, True), strict=True):
        shared = attributed(lm, nodes=3, single=single)
        for part in PARTS:
            np.testing.assert_allclose(shared.parts[part].norm, one.parts[part].norm, atol=1e-12)
            np.testing.assert_allclose(shared.parts[part].gap, one.parts[part].gap, atol=1e-12)


def smooth_lm() -> LM:
    """A model whose layer norms do not jump near zero, so that a quadrature comes close to the integral."""
    tokenizer = make_tokenizer()
    model = make_model("gpt2", len(tokenizer))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 20.0
    return wrap_lm(model, tokenizer, name="smooth")


@pytest.mark.parametrize("single", [False, True])
def test_they_add_up_within_the_quadratures_error(single: bool) -> None:
    one = attributed(smooth_lm(), nodes=40, single=single)
    rough = attributed(smooth_lm(), nodes=2, single=single)
    for part in PARTS:
        fine = np.abs(one.parts[part].gap).max()
        assert fine < 1e-9
        assert np.abs(rough.parts[part].gap).max() > 100 * fine


def test_only_the_last_token_matters_after_the_last_layer() -> None:
    state = attributed(tiny_lm(), nodes=4).parts["state"]
    assert (state.norm[:-1, -1] == 0).all()
    assert state.norm[-1, -1] > 0


def test_captum_gives_the_same(nodes: int = 20) -> None:
    captum = pytest.importorskip("captum.attr", reason="needs captum: pip install -e '.[bench]'")
    lm = tiny_lm()
    one = attributed(lm, nodes=nodes)
    ids = torch.tensor([one.prompt.ids])

    def forward(ids: Tensor) -> Tensor:
        return lm.model(ids, use_cache=False).logits[:, -1].softmax(-1)[:, one.answer]

    for layer in range(lm.n_layers):
        module = lm.model.get_submodule(lm.layout.mlp(layer))
        method = captum.LayerIntegratedGradients(forward, module)
        # captum's baseline is what the module gives for a baseline input; a weight of zero makes that the zero vector.
        with torch.enable_grad(), hooked(lm.model, (Site(lm.layout.mlp(layer)), _zero_for(ids))):
            found = method.attribute(ids, baselines=torch.zeros_like(ids), n_steps=nodes, method="gausslegendre")
        np.testing.assert_allclose(one.parts["mlp"].norm[:, layer], found[0].detach().norm(dim=1), atol=1e-10)


def _zero_for(ids: Tensor) -> object:
    calls = iter(range(1000))

    def zero(output: Tensor) -> Tensor | None:
        # captum evaluates the module for the input first, for the baseline second.
        return torch.zeros_like(output) if next(calls) == 1 else None

    return zero


def test_bad_arguments_and_facts_are_told() -> None:
    lm = tiny_lm()
    with pytest.raises(BadInput, match="one node or more"):
        attribute(lm, [FACT], nodes=0)
    long = FACT.model_copy(update={"prompt": "Anna Ferrand " * 40})
    assert isinstance(attribute(lm, [long])[0], BadFact)


def test_a_fact_for_which_a_processors_memory_does_not_suffice_costs_itself() -> None:
    lm = tiny_lm()
    short = FACT.model_copy(update={"prompt": "Anna Ferrand was"})

    def fail(output: Tensor) -> None:
        if output.requires_grad and output.numel() > 500 * lm.width:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    with hooked(lm.model, (Site(lm.layout.block(2)), fail)):
        found = attribute(lm, [FACT, short], ("state",), nodes=50)
    assert [type(one) for one in found] == [BadFact, Attributed]
    assert "can't allocate memory" in getattr(found[0], "reason", "")


def test_no_hook_is_left_after_an_error() -> None:
    lm = tiny_lm()

    def fail(output: Tensor) -> None:
        if output.requires_grad:
            raise RuntimeError("broken in the middle")

    with hooked(lm.model, (Site(lm.layout.block(2)), fail)), pytest.raises(RuntimeError, match="broken in the middle"):
        attribute(lm, [FACT])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
