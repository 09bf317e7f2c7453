"""The model of the golden numbers: GPT-2 architecture, random weights, and a tokenizer of our own; made by code alone.

The weights come from numpy's `RandomState`, whose numbers are promised never to change. `fingerprint` goes into every
golden file, so that a model that came out different is told from code that went wrong.
"""

from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.golden.cases import CORPUS

END = "<|endoftext|>"
VOCABULARY = 512
SEED = 20220205
DEVIATIONS = {"wte": 0.4, "wpe": 0.1, "weight": 0.25, "bias": 0.05, "ln": 0.1}


@cache
def tokenizer() -> Any:
    """Train a byte-level tokenizer on our own sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, bos_token=END, clean_up_tokenization_spaces=False
    )


def model(dtype: torch.dtype = torch.float64) -> Any:
    """Make the model: 3 layers, width 32, 4 heads, inner width 64, 96 positions; no bias is zero."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_layer=3,
        n_embd=32,
        n_head=4,
        n_inner=64,
        n_positions=96,
        bos_token_id=0,
        eos_token_id=0,
    )
    made = GPT2LMHeadModel(config).to(torch.float64).eval().requires_grad_(False)
    numbers = np.random.RandomState(SEED)
    for name, parameter in sorted(made.named_parameters()):
        parts = name.split(".")
        kind = "ln" if parts[-2].startswith("ln_") else next(k for k in (parts[-2], parts[-1]) if k in DEVIATIONS)
        noise = torch.from_numpy(numbers.standard_normal(tuple(parameter.shape)))
        centre = 1.0 if kind == "ln" and parts[-1] == "weight" else 0.0
        parameter.copy_(centre + DEVIATIONS[kind] * noise)
    made.set_attn_implementation("eager")
    return made.to(dtype)


def fingerprint() -> str:
    """Return a hash of the vocabulary and the float32 weights."""
    digest = sha256(repr(sorted(tokenizer().get_vocab().items())).encode())
    for name, tensor in sorted(model(torch.float32).state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
