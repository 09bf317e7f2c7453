"""Load a language model from a folder or from the Hub, with what identifies it."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file
from counterfact.core.places import check_hub_name, model_place
from counterfact.lm.model.families import adapt
from counterfact.lm.model.gguf import Announce, convert_once, is_gguf
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.packaged import fetch, packaged_model
from counterfact.lm.model.precision import Precision, check_precision
from counterfact.lm.model.sites import layout_of

Dtype = Literal["float32", "bfloat16", "float64"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
HUB_EXTRAS = ("original/*", "onnx/*", "consolidated*")
"""Second copies of the weights in other formats, as some repositories hold."""


def load_lm(
    name_or_path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    announce: Announce | None = None,
) -> LM:
    """Load a model from a folder, a GGUF file, the embedded data, an installed package, or the Hub (or its cache).

    Args:
        name_or_path: a folder with `config.json`, weights and a tokenizer; a GGUF file, which is unpacked once, to the
            cache; the name of an embedded or packaged model (`factlm`, `smollm2`); or a Hub id.
        device: by default the accelerator if there is one.
        dtype: of the weights in memory.
        precision: of float32 products in runs: `tf32` on a CUDA device, `bf16` on a processor, where they have it.
        announce: told that a GGUF file is converted, which takes a while.

    Raises:
        BadInput: no such model, a family without a layout, quantised weights, no fast tokenizer, unknown dtype, no such
            device here, a precision that the device does not have.
    """
    if dtype not in DTYPES:
        raise BadInput(f"expected a dtype among {', '.join(DTYPES)}, got {dtype!r}")
    device = usable_device(device)
    check_precision(precision, device, DTYPES[dtype])
    folder, name, commit = _find(str(name_or_path), announce)
    config = _check_config(folder)
    layout = layout_of(config)
    weights_hash = _hash_weights(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=DTYPES[dtype], attn_implementation=layout.attention_kernel
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{name_or_path} cannot be loaded as a causal language model: {error}") from error
    lm = wrap_lm(model.to(device), tokenizer, name=name, revision=commit or weights_hash[:8], weights_hash=weights_hash)
    return replace(lm, precision=precision)


def parse_arithmetic(text: str) -> tuple[Dtype, Precision]:
    """Return the dtype of weights and the precision of products that `LM.arithmetic` says.

    >>> parse_arithmetic("bfloat16"), parse_arithmetic("float32, tf32 products")
    (('bfloat16', 'strict'), ('float32', 'tf32'))
    """
    dtype, _, products = text.partition(", ")
    return cast(Dtype, dtype), cast(Precision, products.removesuffix(" products") or "strict")


def wrap_lm(
    model: Any, tokenizer: Any, *, name: str, revision: str | None = None, weights_hash: str | None = None
) -> LM:
    """Make an `LM` of a model in memory: evaluation mode, no gradients for its parameters.

    Raises:
        BadInput: its family has no layout, or its tokenizer is not a fast one.
    """
    layout = layout_of(model.config)
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"{name}: expected a fast tokenizer (tokenizer.json); subjects are found by its offsets")
    adapt(model, layout)
    weights_hash = weights_hash or _hash_state(model)
    return LM(
        model=model,
        tokenizer=tokenizer,
        layout=layout,
        name=name,
        revision=revision or weights_hash[:8],
        weights_hash=weights_hash,
        dtype=model.get_input_embeddings().weight.dtype,
    )


def read_config(name_or_path: str | Path) -> Any:
    """Return the configuration of a model, without its weights; see `load_lm` for its name.

    Raises:
        BadInput: there is no such model, its family has no layout, or its weights are quantised.
    """
    name = str(name_or_path)
    if here := _find_here(name):
        return _check_config(here)
    check_hub_name(name)
    return _check_config(name)


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the processor."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def usable_device(device: torch.device | str | None) -> torch.device:
    """Return a device by its name, by default `default_device()`.

    Raises:
        BadInput: it is the name of none, or this machine or this build of torch does not have it.
    """
    if device is None:
        return default_device()
    try:
        found = torch.device(device)
        torch.empty(1, device=found).add_(1).to("cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise BadInput(
            f"--device {device} cannot be used here: {first}. Say cpu, or a device that `counterfact doctor` names"
        ) from error
    return found


def _find(name: str, announce: Announce | None) -> tuple[Path, str, str | None]:
    """Return the folder that holds the model, its name, and its commit if it comes from the Hub."""
    if here := _find_here(name, announce):
        return here, here.resolve().name, None
    path = Path(name)
    if path.exists() or name.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise BadInput(
            f"no model at {name}: expected a folder with a config.json, a .gguf file, or a Hub id such as openai/gpt2"
        )
    check_hub_name(name)
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        for weights in ("*.safetensors", "*.bin"):
            patterns = [*HUB_FILES, weights]
            folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=list(HUB_EXTRAS)))
            if any(folder.glob(weights)):
                break
    except Exception as error:
        raise BadInput(f"no folder {name}, and the Hub gave no model of that name: {error}") from error
    return folder, name, folder.name


def _find_here(name: str, announce: Announce | None = None) -> Path | None:
    """Return the folder of a model that needs no network, if there is one; a GGUF file becomes a folder first."""
    path = Path(model_place(name))
    if is_gguf(path):
        path = convert_once(path, announce)
    elif not path.exists() and (packaged := packaged_model(name)) is not None:
        path = fetch(packaged, announce=announce)
    return path if (path / "config.json").is_file() else None


def _check_config(folder: str | Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"the config.json of {folder} cannot be read: {error}") from error
    if getattr(config, "quantization_config", None):
        raise BadInput(f"{folder} holds quantised weights, which cannot be edited; use the unquantised model")
    layout_of(config)
    if getattr(config, "activation_function", None) == "gelu_new":
        # The same formula in one kernel instead of eight.
        config.activation_function = "gelu_pytorch_tanh"
    return config


def _hash_weights(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise BadInput(f"{folder} holds no weights: expected *.safetensors")
    return sha256("".join(map(hash_file, files)).encode()).hexdigest()


def _hash_state(model: nn.Module) -> str:
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
