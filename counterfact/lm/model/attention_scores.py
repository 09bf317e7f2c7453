"""What some families do to attention scores between the product of queries and keys and the softmax."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom_alibi
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_alibi

from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.sites import Layout


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
