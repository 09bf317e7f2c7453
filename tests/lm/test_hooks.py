"""Hooks act in order, on inputs and outputs, tuples or tensors; a wrong name sets none, an exception leaves none."""

import pytest
import torch
from torch import Tensor, nn

from counterfact.lm.model.hooks import Site, Tape, hooked
from tests.support.models import FAMILIES, tiny_lm

IDS = torch.arange(6)[None] + 5


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_restoring_a_block_restores_the_logits(family: str) -> None:
    lm = tiny_lm(family)
    last, tape = Site(lm.layout.block(lm.n_layers - 1)), Tape()
    with hooked(lm.model, tape.read(last)):
        clean = lm.model(IDS).logits
    noise = (Site(lm.layout.embed), lambda h: h.flip(-1))
    with hooked(lm.model, noise):
        assert not torch.allclose(lm.model(IDS).logits, clean)
    with hooked(lm.model, noise, (last, lambda _: tape[last])):
        assert torch.equal(lm.model(IDS).logits, clean)
    assert torch.equal(lm.model(IDS).logits, clean)


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_changes_nothing_and_zeroing_a_part_does(family: str) -> None:
    lm, tape = tiny_lm(family), Tape()
    clean = lm.model(IDS).logits
    for part in (lm.layout.attention(1), lm.layout.mlp(1), lm.layout.fc_out(1), lm.layout.block(1)):
        with hooked(lm.model, tape.read(Site(part))):
            assert torch.equal(lm.model(IDS).logits, clean)
        assert tape[Site(part)].shape == (1, 6, lm.width)
        with hooked(lm.model, (Site(part), torch.zeros_like)):
            assert not torch.allclose(lm.model(IDS).logits, clean)


def test_patches_run_in_the_order_given() -> None:
    model = nn.Sequential(nn.Identity())
    add, double = (Site("0"), lambda h: h + 1), (Site("0", "in"), lambda h: 2 * h)
    with hooked(model, add, (Site("0"), lambda h: 10 * h), double):
        assert model(torch.tensor(3.0)) == 70


def test_hooks_nest() -> None:
    model = nn.Sequential(nn.Identity())
    pair = (Site("0"), lambda h: h + 1)
    with hooked(model, pair):
        with hooked(model, pair):
            assert model(torch.tensor(0.0)) == 2
        assert model(torch.tensor(0.0)) == 1
    assert model(torch.tensor(0.0)) == 0


def test_a_wrong_name_raises_before_any_hook_is_set() -> None:
    lm = tiny_lm()
    with (
        pytest.raises(LookupError, match=r"GPT2LMHeadModel has no module named 'transformer.h.99'"),
        hooked(lm.model, (Site(lm.layout.embed), torch.zeros_like), (Site("transformer.h.99"), torch.zeros_like)),
    ):
        raise AssertionError("never reached")
    assert hooks(lm.model) == 0


def broken(_: Tensor) -> Tensor:
    raise RuntimeError("in the model")


def test_no_hook_is_left_after_an_exception() -> None:
    lm = tiny_lm()
    sites = [Site(lm.layout.block(0)), Site(lm.layout.fc_out(1), "in")]
    for fault in (broken, lambda _: torch.ones(1)):
        with pytest.raises(RuntimeError), hooked(lm.model, *((site, torch.clone) for site in sites), (sites[0], fault)):
            lm.model(IDS)
        assert hooks(lm.model) == 0
    with pytest.raises(ZeroDivisionError), hooked(lm.model, (sites[0], torch.clone)):
        _ = 1 / 0
    assert hooks(lm.model) == 0


def test_the_input_of_a_module_called_by_keyword_is_no_site() -> None:
    lm = tiny_lm("llama")
    pair = (Site(lm.layout.attention(0), "in"), torch.zeros_like)
    with pytest.raises(TypeError, match="called by keyword"), hooked(lm.model, pair):
        lm.model(IDS)
    assert hooks(lm.model) == 0


def test_gradients_flow_through_a_patch() -> None:
    lm = tiny_lm()
    delta = torch.zeros(lm.width, dtype=torch.float64, requires_grad=True)
    with hooked(lm.model, (Site(lm.layout.mlp(1)), lambda h: h + delta)):
        lm.model(IDS).logits[0, -1, 3].backward()
    assert delta.grad is not None
    assert float(delta.grad.norm()) > 0
