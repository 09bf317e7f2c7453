"""What families do differently that no table of names can say: attention that is called, or scored, in their own way.

`adapt` changes a loaded model so that it can be looked into: its shapes and its speed, never its numbers. `replaced`
gets attention by a function of ours between a family's own projections: most families look a function up by name in the
library's interface, some call a method of their attention, and BLOOM and Falcon compute attention in the middle of
their `forward`, which is written anew around the module's own parts. `score_changes` says what a family does to scores
between the product of queries and keys and the softmax.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom_alibi
from transformers.models.falcon.modeling_falcon import FalconMLP, apply_rotary_pos_emb
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_alibi
from transformers.models.opt.modeling_opt import OPTDecoderLayer

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import find_module, shadowed
from counterfact.lm.model.sites import AttentionCall, Layout

KERNEL = "attend_by"
"""The name under which the `transformers` library knows attention by a function of ours."""


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


@dataclass(frozen=True, eq=False)
class ScoreChange:
    r"""A change of scaled scores $s$ of key position $j$ for head $h$, before what may not be seen is masked.

    $$s \leftarrow c \tanh(s / c), \qquad s \leftarrow s + b_{hj}, \qquad
      a_j = e^{s_j} / \left(e^{s^\text{sink}_h} + \sum_i e^{s_i}\right)$$
    """

    softcap: float | None = None
    """c (Gemma 2)."""
    bias: Tensor | None = None
    """b, (heads, positions): ALiBi, which depends on the key's position alone (BLOOM, some of Falcon)."""
    sinks: Tensor | None = None
    """Scores of a key that has no value, (heads,) (GPT-OSS)."""

    def weights(self, scores: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Return attention weights.

        Args:
            scores: scaled, (rows, heads, queries, keys), in float32 or wider.
            positions: of the keys, (rows or 1, keys).
            mask: added after the change, of a shape that fits the scores.
        """
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias[:, positions].to(scores.dtype).transpose(0, 1)[:, :, None]
        scores = scores + mask
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


def score_changes(model: Any, layout: Layout, positions: int) -> list[ScoreChange | None]:
    """Return what each layer does to its scores, for up to so many positions; `None`: nothing."""
    config = model.config
    layers = range(config.num_hidden_layers)
    bias = _alibi(config, positions, model.get_input_embeddings().weight)
    softcap = getattr(config, "attn_logit_softcapping", None)
    found: list[ScoreChange | None] = []
    for layer in layers:
        sinks = getattr(find_module(model, layout.attention_core(layer)), "sinks", None)
        has_any = any(part is not None for part in (softcap, bias, sinks))
        found.append(ScoreChange(softcap, bias, sinks) if has_any else None)
    return found


def _alibi(config: Any, positions: int, like: Tensor) -> Tensor | None:
    """Return the bias of each head and key position as the family computes it, rounded as it does."""
    build: Callable[..., Tensor]
    if config.model_type == "bloom":
        build, scale = bloom_alibi, 1.0
    elif getattr(config, "alibi", False):
        build, scale = falcon_alibi, 1 / math.sqrt(config.hidden_size // config.num_attention_heads)
    else:
        return None
    every = torch.ones(1, positions, dtype=torch.long, device=like.device)
    return build(every, config.num_attention_heads, like.dtype)[:, 0] * scale


class AttentionSite(NamedTuple):
    """Whose attention is to be computed."""

    layer: int
    scaling: float
    """Factor of the scores."""
    change: ScoreChange | None = None
    """What is done to the scaled scores, if anything."""


Attend = Callable[[AttentionSite, Tensor, Tensor, Tensor], Tensor]
"""The site, queries (rows, heads, tokens, head width), keys and values (of fewer heads, perhaps, each for several of
the queries') -> (rows, tokens, heads, head width)."""
_Scaled = Callable[[float, Tensor, Tensor, Tensor], Tensor]


def replaced(
    call: AttentionCall, module: Any, layer: int, change: ScoreChange | None, attend: Attend
) -> AbstractContextManager[None]:
    """Let one attention be computed by `attend` within the block; by `interface` once the model asks for `KERNEL`."""

    def scaled(scaling: float, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(AttentionSite(layer, scaling, change), query, key, value)

    if call == "interface":
        return shadowed(module, KERNEL, scaled)
    if call == "method":
        return shadowed(module, "_attn", partial(_by_method, module, scaled))
    return shadowed(module, "forward", partial(_bloom if call == "bloom" else _falcon, module, scaled))


def _by_interface(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Answer the library's interface for attention functions."""
    attend: _Scaled = vars(module)[KERNEL]
    return attend(scaling, query, key, value), None


def _by_method(module: Any, attend: _Scaled, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, None]:
    """Answer GPT-J and GPT-Neo; the latter does not scale its scores."""
    scaling = 1 / float(getattr(module, "scale_attn", 1))
    return attend(scaling, query, key, value).transpose(1, 2), None


def _bloom(
    module: Any, attend: _Scaled, hidden: Tensor, residual: Tensor, *, layer_past: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """Stand in for BLOOM's attention, which adds the residual stream itself."""
    query, key, value = module._reshape(module.query_key_value(hidden))
    if layer_past is not None:
        key, value = layer_past.update(key, value, module.layer_idx)
    mixed = attend(module.inv_norm_factor, query, key, value)
    return residual + module.dense(mixed.flatten(2)), None


def _falcon(
    module: Any, attend: _Scaled, hidden: Tensor, *, layer_past: Any = None, position_embeddings: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """Stand in for Falcon's attention, with rotary positions or without."""
    heads = module._split_heads(module.query_key_value(hidden))
    query, key, value = (states.transpose(1, 2) for states in heads)
    if not module.config.alibi:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)  # type: ignore[no-untyped-call]
    if layer_past is not None:
        key, value = layer_past.update(key, value, module.layer_idx)
    mixed = attend(module.inv_norm_factor, query, key, value)
    return module.dense(mixed.flatten(2)), None


AttentionInterface.register(KERNEL, _by_interface)
