"""Where things are in each architecture: the only place that holds module names and weight orientations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn
from transformers import __version__ as installed
from transformers.pytorch_utils import Conv1D

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import find_module

AttentionCall = Literal["interface", "method", "bloom", "falcon"]
"""How an attention is given queries, keys and values; see `lm.model.families`."""
RENAMED = tuple(map(int, installed.split(".")[:2])) >= (5, 24)
"""Whether blocks call their KV cache `cache`, and GPT-J has one rotary table and an attention looked up by name: from
transformers 5.24 on."""


@dataclass(frozen=True)
class Layout:
    """Names of the parts of one family of models, and how its blocks are called.

    `embed`, `blocks`, `final_norm` ... are dotted names from the model; those that start with `in_block_` are
    relative to a block. Use the methods for the parts of one layer, counted from 0.
    """

    family: str
    embed: str
    blocks: str
    in_block_attention: str
    """Module that gives what the attention adds to the residual stream, or what the norm after it is given."""
    in_block_out_proj: str
    """The attention's last projection, from all heads side by side to the width."""
    in_block_mlp: str
    """Module that works on each token alone and gives what the MLP adds to the stream, or what the norm after it is
    given: the whole MLP, or its last projection where the MLP is no module of its own."""
    in_block_fc_in: str | None
    """`None` where an MLP has several experts, and no projections of its own."""
    in_block_fc_out: str | None
    final_norm: str
    head: str = "lm_head"
    positions: str | None = None
    """Learned position embedding, where there is one."""
    first_position: int = 0
    """Row of the position embedding for position 0."""
    embedding_norm: str | None = None
    """Norm between the embedding and the first block, where there is one."""
    rotary: str | None = None
    """Module that turns positions into the (cos, sin) its blocks are given, where there is one."""
    in_block_attention_norm: str | None = None
    """Norm between the attention and the residual stream, where there is one."""
    in_block_mlp_norm: str | None = None
    """Norm between the MLP and the residual stream, where there is one."""
    in_block_attention_core: str | None = None
    """Module that makes queries, keys and values, where it is another than the attention's."""
    cache_keyword: str = "cache" if RENAMED else "past_key_values"
    """What its blocks call their KV cache."""
    block_keywords: Mapping[str, Any] = field(default_factory=dict)
    """What else its blocks must be given."""
    adds_in_place: bool = False
    """Whether its blocks add the attention's output to the MLP's in place, so that both must have as many rows."""
    attention_kernel: str = "sdpa"
    """The library's attention in whole passes of the model; `eager` where no other computes what the family does."""
    attention_call: AttentionCall = "interface"
    """How its attention is given queries, keys and values."""

    @property
    def has_experts(self) -> bool:
        """Whether each MLP has several experts, and no projections of its own."""
        return self.in_block_fc_out is None

    def block(self, layer: int) -> str:
        """Name of a whole block; its output is the residual stream after it."""
        return f"{self.blocks}.{layer}"

    def attention(self, layer: int) -> str:
        """Name of a block's attention; its output is what it adds to the residual stream, or what the norm is given."""
        return self._in_block(layer, self.in_block_attention)

    def attention_core(self, layer: int) -> str:
        """Name of the module that makes queries, keys and values."""
        return self._in_block(layer, self.in_block_attention_core or self.in_block_attention)

    def attention_to_stream(self, layer: int) -> str:
        """Name of the module whose output is what a block's attention adds to the residual stream."""
        return self._in_block(layer, self.in_block_attention_norm or self.in_block_attention)

    def out_proj(self, layer: int) -> str:
        """Name of the attention's last projection, from all heads side by side to the width."""
        return self._in_block(layer, self.in_block_out_proj)

    def mlp(self, layer: int) -> str:
        """Name of a block's MLP, or of its last projection: a module that works on each token alone."""
        return self._in_block(layer, self.in_block_mlp)

    def mlp_norm(self, layer: int) -> str | None:
        """Name of the norm between a block's MLP and the residual stream, where there is one."""
        return None if self.in_block_mlp_norm is None else self._in_block(layer, self.in_block_mlp_norm)

    def mlp_to_stream(self, layer: int) -> str:
        """Name of the module whose output is what a block's MLP adds to the residual stream."""
        return self.mlp_norm(layer) or self.mlp(layer)

    def fc_in(self, layer: int) -> str:
        """Name of the MLP's first projection, width to inner width; where it gives gate and values, these come last.

        Raises:
            BadInput: the MLP has several experts.
        """
        return self._projection(layer, self.in_block_fc_in)

    def fc_out(self, layer: int) -> str:
        """Name of the MLP's second projection, inner width to width: its input is the key, its output the value.

        Raises:
            BadInput: the MLP has several experts.
        """
        return self._projection(layer, self.in_block_fc_out)

    def _projection(self, layer: int, name: str | None) -> str:
        if name is None:
            raise BadInput(
                f"{self.family} models have several experts in each MLP, and a router that chooses among them for "
                "every token: there is no one key and no one weight for a fact, so they can be traced, scored and "
                "sampled from, but not edited"
            )
        return self._in_block(layer, name)

    def _in_block(self, layer: int, name: str) -> str:
        return f"{self.blocks}.{layer}.{name}"


LLAMA = Layout(
    family="llama",
    embed="model.embed_tokens",
    blocks="model.layers",
    in_block_attention="self_attn",
    in_block_out_proj="self_attn.o_proj",
    in_block_mlp="mlp",
    in_block_fc_in="mlp.up_proj",
    in_block_fc_out="mlp.down_proj",
    final_norm="model.norm",
    rotary="model.rotary_emb",
)
EXPERTS = replace(LLAMA, in_block_fc_in=None, in_block_fc_out=None)
NORM_AFTER = replace(
    LLAMA,
    in_block_attention_norm="post_attention_layernorm",
    in_block_mlp_norm="post_feedforward_layernorm",
)
GPT2 = Layout(
    family="gpt2",
    embed="transformer.wte",
    positions="transformer.wpe",
    blocks="transformer.h",
    in_block_attention="attn",
    in_block_out_proj="attn.c_proj",
    in_block_mlp="mlp",
    in_block_fc_in="mlp.c_fc",
    in_block_fc_out="mlp.c_proj",
    final_norm="transformer.ln_f",
)
BLOOM = Layout(
    family="bloom",
    embed="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    blocks="transformer.h",
    # Both modules add the residual stream themselves, so what they add to it is what their last projections give.
    in_block_attention="self_attention.dense",
    in_block_attention_core="self_attention",
    in_block_out_proj="self_attention.dense",
    in_block_mlp="mlp.dense_4h_to_h",
    in_block_fc_in="mlp.dense_h_to_4h",
    in_block_fc_out="mlp.dense_4h_to_h",
    final_norm="transformer.ln_f",
    cache_keyword="layer_past",
    block_keywords={"alibi": None},
    attention_kernel="eager",
    attention_call="bloom",
)


def _opt(config: Any) -> Layout:
    if not config.do_layer_norm_before:
        raise BadInput(
            "this OPT model (of 350 million parameters, as published) normalises the residual stream itself after each "
            "MLP, so that nothing is added to it and nothing can be traced or edited there; use another size"
        )
    return Layout(
        family="opt",
        embed="model.decoder.embed_tokens",
        positions="model.decoder.embed_positions",
        first_position=2,
        blocks="model.decoder.layers",
        in_block_attention="self_attn",
        in_block_out_proj="self_attn.out_proj",
        in_block_mlp="fc2",
        in_block_fc_in="fc1",
        in_block_fc_out="fc2",
        final_norm="model.decoder.final_layer_norm",
    )


GPTJ = replace(
    GPT2,
    family="gptj",
    positions=None,
    in_block_out_proj="attn.out_proj",
    in_block_fc_in="mlp.fc_in",
    in_block_fc_out="mlp.fc_out",
    attention_kernel="eager",
)
LAYOUTS: dict[str, Layout | Callable[[Any], Layout]] = {
    "gpt2": GPT2,
    "gptj": replace(GPTJ, rotary="transformer.rotary_emb")
    if RENAMED
    else replace(GPTJ, cache_keyword="layer_past", attention_call="method"),
    "gpt_neo": replace(
        GPT2,
        family="gpt_neo",
        in_block_attention_core="attn.attention",
        in_block_out_proj="attn.attention.out_proj",
        cache_keyword="layer_past",
        attention_kernel="eager",
        attention_call="method",
    ),
    "gpt_neox": Layout(
        family="gpt_neox",
        embed="gpt_neox.embed_in",
        blocks="gpt_neox.layers",
        in_block_attention="attention",
        in_block_out_proj="attention.dense",
        in_block_mlp="mlp",
        in_block_fc_in="mlp.dense_h_to_4h",
        in_block_fc_out="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        rotary="gpt_neox.rotary_emb",
        cache_keyword="layer_past",
    ),
    "bloom": BLOOM,
    "falcon": replace(
        BLOOM,
        family="falcon",
        embedding_norm=None,
        in_block_attention="self_attention",
        rotary="transformer.rotary_emb",
        adds_in_place=True,
        attention_kernel="sdpa",  # in transformers 5 its eager attention adds ALiBi twice
        attention_call="falcon",
    ),
    "opt": _opt,
    **{
        family: replace(LLAMA, family=family)
        for family in ("llama", "mistral", "qwen2", "qwen3", "gemma", "stablelm", "smollm3")
    },
    "phi": replace(
        LLAMA,
        family="phi",
        in_block_out_proj="self_attn.dense",
        in_block_fc_in="mlp.fc1",
        in_block_fc_out="mlp.fc2",
        final_norm="model.final_layernorm",
    ),
    "phi3": replace(LLAMA, family="phi3", in_block_fc_in="mlp.gate_up_proj"),
    **{family: replace(NORM_AFTER, family=family) for family in ("gemma3_text", "olmo2", "olmo3")},
    "gemma2": replace(NORM_AFTER, family="gemma2", attention_kernel="eager"),
    **{family: replace(EXPERTS, family=family) for family in ("mixtral", "qwen2_moe", "qwen3_moe")},
    "gpt_oss": replace(EXPERTS, family="gpt_oss", attention_kernel="eager"),
}
"""By `model_type`: a layout, or a function that returns the one for a configuration."""


def layout_of(config: Any) -> Layout:
    """Return the layout for a model's configuration.

    Raises:
        BadInput: its `model_type` has none, or this model has what the layout cannot say.
    """
    family = config.model_type
    if family not in LAYOUTS:
        raise BadInput(
            f"no layout for models of type {family!r}. Known: {', '.join(LAYOUTS)}. "
            "docs/families.md says how to add one"
        )
    found = LAYOUTS[family]
    return found if isinstance(found, Layout) else found(config)


def weight_view(model: nn.Module, module: str) -> Tensor:
    """Return a view of a projection's weight, shape (d_in, d_out), whatever way round the module keeps it.

    Writing to the view writes to the model. The way round is told by the module's type: a square weight's shape
    does not tell.

    Raises:
        LookupError: no such module.
        TypeError: it is no linear map.
    """
    found = find_module(model, module)
    if isinstance(found, Conv1D):
        return found.weight
    if isinstance(found, nn.Linear):
        return found.weight.T
    raise TypeError(f"{module} is a {type(found).__name__}, expected a Linear or Conv1D whose weight can be edited")


def weight_shape(model: nn.Module, module: str) -> tuple[int, int]:
    """Return (d_in, d_out) of a projection."""
    d_in, d_out = weight_view(model, module).shape
    return d_in, d_out
