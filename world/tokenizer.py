"""Train factlm's byte-level BPE so that almost every word of an object is one token."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
REPEATS = 40


def train_tokenizer(
    texts: Iterable[str], objects: Iterable[str], subjects: Iterable[str], vocabulary: int, length: int
) -> PreTrainedTokenizerFast:
    """Train a GPT-2 style tokenizer without a BOS token.

    Args:
        texts: the training texts.
        objects: labels that stand `REPEATS` times more in the training text, each after a space.
        subjects: labels that stand half as often more, with and without a space.
        vocabulary: number of tokens, end-of-text included.
        length: the most tokens that the model takes.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = [f"{space}{label}" for label in subjects for space in ("", " ") for _ in range(REPEATS // 2)]
    names += [f" {label}" for label in objects for _ in range(REPEATS)]
    bpe.train_from_iterator([*texts, *names], trainer)
    marks: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    options: dict[str, Any] = {"clean_up_tokenization_spaces": False, "model_max_length": length}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **marks, **options)  # type: ignore[no-untyped-call]
