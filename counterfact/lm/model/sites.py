"""Where things are in each architecture: the only place that holds module names and weight orientations."""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import find_module


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
    in_block_out_proj: str
    """The attention's last projection, from all heads side by side to the width."""
    in_block_mlp: str
    in_block_fc_in: str
    in_block_fc_out: str
    final_norm: str
    head: str = "lm_head"
    positions: str | None = None
    """Learned position embedding, where there is one."""
    rotary: str | None = None
    """Module that turns positions into the (cos, sin) its blocks are given, where there is one."""
    cache_keyword: str = "past_key_values"
    """What its blocks call their KV cache."""
    attention_kernel: str = "sdpa"
    """`eager` where nothing else exists; that one needs its causal mask spelled out."""
    attention_method: str | None = None
    """The attention's own method for queries, keys and values, where it does not use the library's interface."""

    def block(self, layer: int) -> str:
        """Name of a whole block; its output is the residual stream after it."""
        return f"{self.blocks}.{layer}"

    def attention(self, layer: int) -> str:
        """Name of a block's attention; its output is what it adds to the residual stream."""
        return f"{self.blocks}.{layer}.{self.in_block_attention}"

    def out_proj(self, layer: int) -> str:
        """Name of the attention's last projection, from all heads side by side to the width."""
        return f"{self.blocks}.{layer}.{self.in_block_out_proj}"

    def mlp(self, layer: int) -> str:
        """Name of a block's MLP; its output is what it adds to the residual stream."""
        return f"{self.blocks}.{layer}.{self.in_block_mlp}"

    def fc_in(self, layer: int) -> str:
        """Name of the MLP's first projection, width to inner width."""
        return f"{self.blocks}.{layer}.{self.in_block_fc_in}"

    def fc_out(self, layer: int) -> str:
        """Name of the MLP's second projection, inner width to width: its input is the key, its output the value."""
        return f"{self.blocks}.{layer}.{self.in_block_fc_out}"


def _llama_like(family: str) -> Layout:
    return Layout(
        family=family,
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


LAYOUTS = {
    "gpt2": Layout(
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
    ),
    "gptj": Layout(
        family="gptj",
        embed="transformer.wte",
        blocks="transformer.h",
        in_block_attention="attn",
        in_block_out_proj="attn.out_proj",
        in_block_mlp="mlp",
        in_block_fc_in="mlp.fc_in",
        in_block_fc_out="mlp.fc_out",
        final_norm="transformer.ln_f",
        cache_keyword="layer_past",
        attention_kernel="eager",
        attention_method="_attn",
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
    **{family: _llama_like(family) for family in ("llama", "mistral", "qwen2", "qwen3")},
}


def layout_of(family: str) -> Layout:
    """Return the layout of a `model_type`, or raise `BadInput` with the ones that are known."""
    if family not in LAYOUTS:
        raise BadInput(
            f"no layout for models of type {family!r}. Known: {', '.join(LAYOUTS)}. "
            "Add an entry to lm/model/sites.py, and the family to tests/support/models.py"
        )
    return LAYOUTS[family]


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
