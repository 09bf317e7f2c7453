"""How attention by a function of ours gets between a family's own projections.

Most families look a function up by name in the library's interface. Some call a method of their attention; BLOOM and
Falcon compute attention in the middle of their `forward`, which is written anew around the module's own parts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AttentionInterface
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from counterfact.lm.model.attention_scores import ScoreChange
from counterfact.lm.model.hooks import shadowed
from counterfact.lm.model.sites import AttentionCall

KERNEL = "attend_by"
"""The name under which the `transformers` library knows attention by a function of ours."""


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
