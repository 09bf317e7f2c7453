"""The map of each architecture: every name exists, shapes are (d_in, d_out), and the down projection is where it is."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import Site, Tape, find_module, hooked
from counterfact.lm.model.sites import LAYOUTS, layout_of, weight_shape, weight_view
from tests.support.models import EDITABLE, EXPERTS, FAMILIES, INNER, LAYERS, WIDTH, family_of, tiny_lm


def test_every_family_has_a_tiny_model() -> None:
    assert {family_of(kind) for kind in (*EDITABLE, *EXPERTS)} == set(LAYOUTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_exist_and_shapes_are_in_by_out(family: str) -> None:
    lm = tiny_lm(family)
    layout = lm.layout
    names = [layout.embed, layout.blocks, layout.final_norm, layout.head, layout.positions, layout.rotary]
    for name in filter(None, names):
        find_module(lm.model, name)
    for layer in range(LAYERS):
        parts = (layout.block, layout.attention, layout.attention_core, layout.attention_to_stream, layout.out_proj)
        for name in (*parts, layout.mlp, layout.mlp_to_stream):
            find_module(lm.model, name(layer))
        (d_in, d_out), inner = weight_shape(lm.model, layout.fc_in(layer)), 4 * WIDTH if family == "bloom" else INNER
        assert (d_in, d_out) == (WIDTH, 2 * inner if family == "phi3" else inner)
        assert weight_shape(lm.model, layout.fc_out(layer)) == (inner, WIDTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_output_is_the_down_projection_of_its_input(family: str) -> None:
    lm = tiny_lm(family)
    name, tape = lm.layout.fc_out(1), Tape()
    sites = Site(name, "in"), Site(lm.layout.mlp(1))
    with hooked(lm.model, *map(tape.read, sites)):
        lm.model(torch.arange(5)[None] + 7)
    keys, values = (tape[site] for site in sites)
    bias = find_module(lm.model, name).bias
    expected = keys @ weight_view(lm.model, name) + (0 if bias is None else bias)
    torch.testing.assert_close(values, expected)


def test_orientation_is_told_by_type_even_for_square_weights() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 3, bias=False), "conv": Conv1D(3, 3), "norm": nn.LayerNorm(3)})
    weight = torch.arange(9.0).view(3, 3)
    with torch.no_grad():
        for name in ("linear", "conv"):
            weight_view(model, name).copy_(weight)
            nn.init.zeros_(model[name].bias) if name == "conv" else None
            x = torch.tensor([[1.0, 0.0, 0.0]])
            assert torch.equal(model[name](x), weight[:1])
    with pytest.raises(TypeError, match="expected a Linear or Conv1D"):
        weight_view(model, "norm")
    with pytest.raises(LookupError, match="'nowhere'"):
        weight_view(model, "nowhere")


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'bert'. Known: gpt2, gptj"):
        layout_of(SimpleNamespace(model_type="bert"))
