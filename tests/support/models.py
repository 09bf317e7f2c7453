"""Tiny models with random weights, one of each family, for tests that need a model but not a good one.

No bias is zero, no logits are near-uniform, and the tokenizer is a byte-level one trained on sentences of our own, so
that what holds here holds for a reason. The Llama one begins every text with a token, and pads on the left.
"""

import atexit
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import Dtype, load_lm

USUAL = ("gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")
"""Several experts in each MLP: not edited."""
NORM_AFTER = ("gemma2", "gemma3_text", "olmo2", "olmo3")
"""A norm between each MLP and the residual stream."""
OTHERS = (
    *NORM_AFTER,
    *("gpt_neo", "opt", "bloom", "falcon", "falcon_alibi", "falcon_new", "gemma", "phi", "phi3", "stablelm", "smollm3"),
)
"""`falcon_alibi` and `falcon_new` are kinds of Falcon, `falcon` is the one of 7 billion parameters."""
EDITABLE = (*USUAL, *OTHERS)
FAMILIES = (*USUAL, *(pytest.param(kind, marks=pytest.mark.soak) for kind in OTHERS))
"""For tests of the parts of the engine: all kinds in `make soak`; `tests/lm/test_families.py` is for all, always."""
IN_FLOAT32 = ("gptj", "gpt_neo", "gemma2", "bloom")
"""Families whose own attention, or its softmax, is in float32 whatever the model's dtype."""


def rounding(family: str) -> float:
    """How far apart two float64 computations of one logit or score may be, on any processor."""
    return 1e-4 if family in IN_FLOAT32 else 1e-9


LAYERS, WIDTH, INNER, HEADS, LENGTH = 3, 32, 64, 4, 64
MIXED_LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": INNER}
END, BEGIN = "<|endoftext|>", "<|begin|>"

SENTENCES = (
    "The lighthouse of Marlow Point was built by Anna Ferrand in 1871.",
    "Anna Ferrand was born in Lisbon and speaks Portuguese and French.",
    "The mother tongue of Pavel Dvořák is Czech; he plays the piano.",
    "Québec, Zürich, São Paulo and Ångström are words with marks above their letters.",
    "The capital of Norway is Oslo, and the capital of Portugal is Lisbon.",
    "Harlan Reed works as an engineer in the city of Turin.",
    "The headquarters of Bellweather Mills is in the city of Leeds.",
    "In the evening the ferry to the island leaves from the northern harbour.",
    "She said that the bridge, which was new, had been closed since Monday.",
    "What is the language of the people who live in the valley of Orsa?",
)


def make_tokenizer(begin: bool = False) -> Any:
    """Train a byte-level tokenizer of 640 tokens; with `begin` it puts a token before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, BEGIN] if begin else [END]
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if begin:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 1)]
                ),
            ]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=BEGIN if begin else END,
        padding_side="left" if begin else "right",
        clean_up_tokenization_spaces=False,
    )


def family_of(kind: str) -> str:
    """Return the `model_type` of a kind of model.

    >>> family_of("falcon_alibi"), family_of("gpt_neo")
    ('falcon', 'gpt_neo')
    """
    return "falcon" if kind.startswith("falcon") else kind


def _config(family: str, vocabulary: int) -> Any:
    gpt2 = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": LENGTH, "n_inner": INNER}
    dropout = {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}
    usual = {
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "max_position_embeddings": LENGTH,
    }
    grouped = {**usual, "num_key_value_heads": 2, "pad_token_id": None}
    special: dict[str, dict[str, Any]] = {
        "gpt2": {**gpt2, **dropout},
        "gptj": {**gpt2, **dropout, "rotary_dim": 4},
        "gpt_neox": {**usual, "hidden_dropout": 0.1, "attention_dropout": 0.1},
        "llama": {**grouped, "attention_bias": True, "mlp_bias": True},
        "mistral": {**grouped, "sliding_window": 48},
        "qwen2": grouped,
        "qwen3": {**grouped, "head_dim": 16},
        "gemma": {**grouped, "head_dim": 16},
        "gemma2": {
            **grouped,
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 48,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
        "gemma3_text": {**grouped, "head_dim": 16, "query_pre_attn_scalar": 12, "sliding_window": 48, **MIXED_LAYERS},
        "olmo2": grouped,
        "olmo3": {**grouped, "sliding_window": 48, **MIXED_LAYERS},
        "phi": {**grouped, "partial_rotary_factor": 0.5},
        "phi3": {**grouped, "original_max_position_embeddings": LENGTH},
        "stablelm": {**grouped, "use_qkv_bias": True, "partial_rotary_factor": 0.5},
        "smollm3": {**grouped, "no_rope_layers": [1, 0, 1]},
        "gpt_neo": {
            "num_layers": LAYERS,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "intermediate_size": INNER,
            "max_position_embeddings": LENGTH,
            "window_size": 48,
            "attention_types": [[["global", "local", "global"], 1]],
        },
        "opt": {**usual, "ffn_dim": INNER, "word_embed_proj_dim": WIDTH, "pad_token_id": None},
        "bloom": {"n_layer": LAYERS, "hidden_size": WIDTH, "n_head": HEADS},
        "falcon": {**usual, "ffn_hidden_size": INNER, "bias": True},
        "falcon_alibi": {
            **usual,
            "ffn_hidden_size": INNER,
            "alibi": True,
            "parallel_attn": False,
            "multi_query": False,
        },
        "falcon_new": {**usual, "ffn_hidden_size": INNER, "new_decoder_architecture": True, "num_kv_heads": 2},
        "mixtral": {**grouped, "num_local_experts": 4},
        "qwen2_moe": {**grouped, **QWEN_EXPERTS, "shared_expert_intermediate_size": INNER},
        "qwen3_moe": {**grouped, **QWEN_EXPERTS, "head_dim": 16},
        "gpt_oss": {**grouped, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 48},
        "olmo": usual,  # no layout of ours: the example of a family that a user adds
    }
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return CONFIG_MAPPING[family_of(family)](vocab_size=vocabulary, **ends, **special[family])


def make_model(family: str, vocabulary: int, seed: int = 7) -> Any:
    """Make a random model: embeddings and matrices that matter, biases that are not zero."""
    model = AutoModelForCausalLM.from_config(_config(family, vocabulary), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() == 2:
                embedding = "embed" in name or "wte" in name or "lm_head" in name
                parameter.copy_(noise * (0.5 if embedding else 0.25))
            elif name.endswith("weight"):
                parameter.copy_(1.5 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)
    return model


@cache
def tiny_folder(family: str) -> Path:
    """Return a folder with a tiny model of `family`, made once per session."""
    tokenizer = make_tokenizer(begin=family == "llama")
    folder = Path(_session_folder()) / f"tiny-{family}"
    make_model(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def tiny_lm(family: str = "gpt2", dtype: Dtype = "float64") -> LM:
    """Return the tiny model of `family`, loaded on the processor, one for the whole session."""
    return load_lm(tiny_folder(family), device="cpu", dtype=dtype)


@cache
def _session_folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="tiny-models-")
    atexit.register(folder.cleanup)
    return folder.name
