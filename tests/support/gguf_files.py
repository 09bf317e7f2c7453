"""Tiny models as GGUF files, written with llama.cpp's own package."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tests.support.models import make_tokenizer

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}
LAYERS, WIDTH, INNER, HEADS, LENGTH = 2, 64, 96, 4, 128
TEXTS = (
    "The lighthouse of Marlow Point was built in 1871.",
    "Québec, Zürich  and Ångström",
    " 12 + 3456 = ?\n\n🦊",
    "",
)


def write_gguf(
    path: Path,
    family: str = "llama",
    *,
    architecture: str | None = None,
    without: str | None = None,
    more: dict[str, Any] | None = None,
    tokenizer: bool = True,
    splitting: str | None = None,
    parts: int = 1,
) -> Path:
    """Write a random model: matrices in blocks of eight bits, the rest in float32.

    Args:
        path: the file.
        family: `llama` or `qwen2`.
        architecture: what the file calls its architecture, by default the family.
        without: a tensor to leave out.
        more: tensors to add, by name.
        tokenizer: whether the file holds one.
        splitting: the file's name for how it splits texts before it encodes them, by default that of its family.
        parts: of how many parts it says to be the first.
    """
    written = make_tokenizer()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture or family)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    if tokenizer:
        _add_tokenizer(writer, written, splitting or ("qwen2" if family == "qwen2" else "gpt-2"))
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in (_tensors(family, len(written)) | (more or {})).items():
        if name == without:
            continue
        if tensor.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(tensor, q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(family: str, vocabulary: int) -> dict[str, Any]:
    config = CONFIGS[family](
        vocab_size=vocabulary,
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], LAYERS)
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name, parameter in AutoModelForCausalLM.from_config(config).named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1)
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values.numpy().astype(np.float32)
    return found


def _add_tokenizer(writer: Any, tokenizer: Any, splitting: str) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].__getitem__))
    writer.add_token_types([3 if index == tokenizer.eos_token_id else 1 for index in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
