"""Load a language model from a folder or from the Hub, with what identifies it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json
from counterfact.core.places import check_hub_name, model_place
from counterfact.lm.model.encoding import Encoding, Located, SubjectRule
from counterfact.lm.model.families import ScoreChange, adapt, score_changes
from counterfact.lm.model.gguf import Announce, convert_once, is_gguf
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.packaged import fetch, packaged_model
from counterfact.lm.model.precision import Precision, check_precision
from counterfact.lm.model.sites import Layout, layout_of

Dtype = Literal["float32", "bfloat16", "float64"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
LENGTH = 2048
"""Longest row in tokens of a model that does not say, as one with ALiBi may not."""
HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
HUB_EXTRAS = ("original/*", "onnx/*", "consolidated*")
"""Second copies of the weights in other formats, as some repositories hold."""


@dataclass(frozen=True, eq=False)
class LM:
    """A causal language model in evaluation mode, frozen, with its tokenizer and the map of its parts."""

    model: Any
    """A `PreTrainedModel`; its parameters need no gradient."""
    tokenizer: Any
    """A fast tokenizer of the `transformers` library."""
    layout: Layout
    name: str
    """The folder's name, or the Hub id."""
    revision: str
    """The start of the weights' hash for a folder, the commit for a Hub id."""
    weights_hash: str
    """sha256 over the weight files, in the order of their names."""
    dtype: torch.dtype
    precision: Precision = "strict"
    """Precision of float32 products, in force within a block of `packed_products`."""
    written: list[Any] = field(default_factory=list)
    """Edits that stand in the weights at present, put there by `merged`; copies of this object share the list."""

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @cached_property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def width(self) -> int:
        """Width H of the residual stream."""
        return int(self.config.hidden_size)

    @cached_property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.config.vocab_size)

    @cached_property
    def max_length(self) -> int:
        """Longest row in tokens: the model's positions, or the shortest attention window of its layers if that is less.

        So in every layer each token sees all tokens before it.
        """
        config = self.config
        window = getattr(config, "sliding_window", None)
        if getattr(config, "layer_types", None) and "sliding_attention" not in config.layer_types:
            window = None
        if "local" in (getattr(config, "attention_layers", None) or ()):
            window = config.window_size
        positions = getattr(config, "max_position_embeddings", None) or LENGTH
        return int(min(positions, window or positions))

    @cached_property
    def rotary_kinds(self) -> list[str | None]:
        """The kind of rotary table of each layer, where the family has several."""
        rotary = self.layout.rotary and find_module(self.model, self.layout.rotary)
        if not rotary or "layer_type" not in signature(rotary.forward).parameters:
            return [None] * self.n_layers
        return list(self.config.layer_types)

    @cached_property
    def attends_as_usual(self) -> bool:
        """Whether the library's own kernel computes its attention: softmax of scaled scores, and nothing else."""
        is_usual = self.layout.attention_call == "interface" and self.layout.attention_kernel == "sdpa"
        return is_usual and not any(self.score_changes)

    @cached_property
    def score_changes(self) -> list[ScoreChange | None]:
        """What each layer does to its attention scores; `None`: nothing."""
        return score_changes(self.model, self.layout, self.max_length)

    @property
    def working_dtype(self) -> torch.dtype:
        """The dtype of losses, steps and deltas: float64 for a float64 model, else float32."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def arithmetic(self) -> str:
        """The weights' dtype, and how their products are rounded where they are not as exact as the dtype allows."""
        dtype = str(self.dtype).removeprefix("torch.")
        return dtype if self.precision == "strict" else f"{dtype}, {self.precision} products"

    @property
    def state_hash(self) -> str:
        """What caches are keyed by: `weights_hash`, and in a block of `merged` a hash of it and of what is written."""
        written = [edit.content_hash for edit in self.written]
        return hash_json([self.weights_hash, *written]) if written else self.weights_hash

    @property
    def identity(self) -> dict[str, str]:
        """What a result keeps about the model."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_hash": self.weights_hash,
            "dtype": self.arithmetic,
        }

    @cached_property
    def encoding(self) -> Encoding:
        """The tokenizer as it is used here, for many texts at once."""
        return Encoding.of(self.tokenizer, len(self.model.get_input_embeddings().weight))

    @property
    def text_start(self) -> list[int]:
        """Ids that begin a text out of nothing: what the tokenizer puts first, else its bos, else its eos token."""
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return list(self.encoding.start) or [mark for mark in marks if mark is not None][:1]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.encoding.texts([text])[0]

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Return the ids of a prompt: a beginning-of-sequence token first if the tokenizer adds one, nothing after."""
        return self.encoding.prompts([prompt])[0]

    def target_tokens(self, target: str, joiner: str = " ") -> list[int]:
        """Return the ids of a target after its joiner; a row is `prompt_tokens(p) + target_tokens(t)`.

        Raises:
            ValueError: the target is empty, or the tokenizer cannot encode it.
        """
        return self.encoding.target(target, joiner)

    def locate(
        self, templates: Sequence[str], subjects: Sequence[str], rule: SubjectRule = "subject_last"
    ) -> list[Located]:
        """Return the ids of many filled templates and the position that `rule` names in each: `Encoding.locate`."""
        return self.encoding.locate(templates, subjects, rule)

    def subject_position(self, template: str, subject: str, rule: SubjectRule) -> int:
        """Return the index that `rule` names in `prompt_tokens(fill(template, subject))`, never negative."""
        return self.locate([template], [subject], rule)[0].position

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.encoding.decode(ids)


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
