"""What is changed about a loaded model so that it can be looked into: its shapes and its speed, never its numbers."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.falcon.modeling_falcon import FalconMLP
from transformers.models.opt.modeling_opt import OPTDecoderLayer

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.sites import Layout


def adapt(model: Any, layout: Layout) -> None:
    """Put a model in evaluation mode, frozen, with the attention and the block that its family is read with.

    Raises:
        BadInput: it lies on several devices.
    """
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise BadInput(
            f"the model is spread over {', '.join(devices)}, and everything here runs on one device: load it without "
            "`device_map`, with --dtype bfloat16 if it does not fit otherwise; several devices each take a whole copy "
            "(evaluate --runner ray)"
        )
    model.eval().requires_grad_(False)
    model.set_attn_implementation(layout.attention_kernel)
    if layout.has_experts and model.dtype == torch.float64:
        model.set_experts_implementation("eager")  # the others multiply nothing wider than float32
    blocks: Any = find_module(model, layout.blocks).children()
    for block in blocks:
        if layout.family == "opt":
            block.__class__ = _RowsApart
        if layout.family == "falcon":
            block.mlp.__class__ = _FreshMLP


class _FreshMLP(FalconMLP):
    """An MLP of Falcon; its block adds to what it gives in place, which would change what was read of its last part."""

    def forward(self, x: Tensor) -> Tensor:
        """Run it, and give a tensor of its own."""
        result: Tensor = super().forward(x).clone()
        return result


class _RowsApart(OPTDecoderLayer):  # type: ignore[no-untyped-call]
    """A block of OPT; as published, its rows are laid one after the other between its two norms."""

    def forward(self, hidden_states: Tensor, **of_attention: Any) -> Tensor:  # type: ignore[override]
        """Run it with rows apart, (rows, tokens, width)."""
        attended, _ = self.self_attn(hidden_states=self.self_attn_layer_norm(hidden_states), **of_attention)
        hidden = hidden_states + attended
        inner = self.activation_fn(self.fc1(self.final_layer_norm(hidden)))
        result: Tensor = hidden + self.fc2(inner)
        return result
