"""Models of a known size with random weights: speed depends on the size alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from counterfact.core.files import hash_json
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import DTYPES, Dtype, wrap_lm

TRAINED_VOCABULARY = 4096
END = "<|endoftext|>"
EMBEDDING, MATRICES = 0.15, 0.05
"""Standard deviations of the weights: the usual 0.02 gives near-uniform logits, where a wrong result looks right."""


@dataclass(frozen=True)
class Shape:
    """A GPT-2's size, and the settings of ROME that it is measured with."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    edited_layer: int


SHAPES = {
    "factlm-like": Shape(6, 192, 6, TRAINED_VOCABULARY, 1),
    "gpt2-small": Shape(12, 768, 12, 50257, 5),
    "gpt2-xl": Shape(48, 1600, 25, 50257, 17),
}


def random_lm(
    shape: Shape, tokenizer: Any, name: str, *, device: torch.device | str = "cpu", dtype: Dtype = "float32"
) -> LM:
    """Make a model of a shape; its weights follow from the shape, the device's kind and torch's version."""
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_embd=shape.width,
        n_head=shape.heads,
        n_positions=256 if shape.layers * shape.width < 5000 else 1024,
        initializer_range=MATRICES,
        # The same formula as GPT-2's in one kernel instead of eight.
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = GPT2LMHeadModel(config)
        with torch.no_grad():
            model.transformer.wte.weight.mul_(EMBEDDING / MATRICES)
    made_of = [vars(shape), str(torch.device(device)), torch.__version__, dtype, tokenizer.backend_tokenizer.to_str()]
    return wrap_lm(model.to(DTYPES[dtype]), tokenizer, name=f"random-{name}", weights_hash=hash_json(made_of))


def train_tokenizer(records: Sequence[CounterFactRecord], texts: Sequence[str]) -> Any:
    """Train a byte-level tokenizer on texts, so that most of the records' targets are one token."""
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    asked = [record.requested_rewrite for record in records]
    targets = [f"x {target}" for rewrite in asked for target in (rewrite.target_new.text, rewrite.true_text)]
    tokenizer.train_from_iterator([*texts, *targets * 50], trainer)
    return _wrapped(tokenizer)


def read_tokenizer(folder: Path) -> Any:
    """Read GPT-2's tokenizer from its two files, `encoder.json` or `vocab.json`, and `vocab.bpe` or `merges.txt`."""
    vocabulary = next(path for name in ("encoder.json", "vocab.json") if (path := folder / name).exists())
    merges = next(path for name in ("vocab.bpe", "merges.txt") if (path := folder / name).exists())
    return _wrapped(_byte_level(models.BPE.from_file(str(vocabulary), str(merges))))


def _byte_level(model: Any) -> Tokenizer:
    tokenizer: Any = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    found: Tokenizer = tokenizer
    return found


def _wrapped(tokenizer: Tokenizer) -> Any:
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
