"""The least work that the main job is: products that no method of these results can leave out, and bytes to be read."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.machine import Ceiling
from benchmarks.one_at_a_time import scored_prompts
from core.records import CounterFactRecord
from editors._rows import Encoded
from lm.loading import LM


@dataclass(frozen=True)
class Work:
    """Of one stage, for one record of a chunk."""

    gflop: float
    """1e9 operations in products with weights; attention is not counted."""
    gigabytes: float
    """1e9 bytes: weights, once a pass for the whole chunk, and keys and values of earlier tokens, once a token."""

    def seconds(self, ceiling: Ceiling) -> float:
        """The least time at measured limits."""
        return max(self.gflop / ceiling.gflops, self.gigabytes / ceiling.gigabytes)


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, and of bytes kept a token and layer."""

    block: int
    head: int
    token: int
    item: int
    layers: int

    @classmethod
    def of(cls, lm: LM) -> "Sizes":
        """Count the model's weights that take part in products."""
        block = lm.model.get_submodule(lm.layout.block(0))
        linear = [part for part in block.modules() if isinstance(part, Conv1D | nn.Linear)]
        item = lm.dtype.itemsize
        return cls(
            sum(p.weight.numel() for p in linear), lm.vocabulary * lm.width, 2 * lm.width * item, item, lm.n_layers
        )


def edit_work(lm: LM, items: Sequence[Encoded], passes: Sequence[int], layer: int) -> Work:
    """One pass below and in the edited layer, one above it before the subject, and the search from the subject on.

    Args:
        lm: the model.
        items: the rows of each record of the chunk.
        passes: forward passes of each record's search; there is a backward pass less, of as many operations.
        layer: the edited layer.
    """
    sizes, upper = Sizes.of(lm), lm.n_layers - layer - 1
    operations = read = 0
    for item, forward in zip(items, passes, strict=True):
        half_steps = 2 * forward - 1
        tokens = sum(len(row.ids) for row in item.rows)
        before = sum(row.lookup for row in item.rows)
        scored = (len(item.rows) - 1) * len(item.target) + 1
        blocks = tokens * (layer + 1) + before * upper + half_steps * (tokens - before) * upper
        operations += 2 * (blocks * sizes.block + half_steps * scored * sizes.head)
        read += half_steps * before * upper * sizes.token
    weights = (2 * max(passes) - 1) * (upper * sizes.block + sizes.head) * sizes.item
    return Work(operations / len(items) / 1e9, (read + weights) / len(items) / 1e9)


def score_work(lm: LM, records: Sequence[CounterFactRecord]) -> Work:
    """Every token of the 13 prompts once (targets of one token), logits at one position each."""
    sizes = Sizes.of(lm)
    prompts = [prompt for record in records for prompt in lm.encoding.prompts(scored_prompts(record))]
    operations = 2 * (sum(map(len, prompts)) * sizes.layers * sizes.block + len(prompts) * sizes.head)
    weights = (sizes.layers * sizes.block + sizes.head) * sizes.item
    return Work(operations / len(records) / 1e9, weights / len(records) / 1e9)


def generate_work(lm: LM, records: Sequence[CounterFactRecord], length: int) -> Work:
    """Every token of every text but the last once; each looks at the keys and values of all before it."""
    sizes = Sizes.of(lm)
    prompts = [prompt for record in records for prompt in lm.encoding.prompts(record.generation_prompts)]
    sampled = [length - len(prompt) for prompt in prompts]
    operations = 2 * (len(prompts) * (length - 1) * sizes.layers * sizes.block + sum(sampled) * sizes.head)
    looked_at = sum(sum(range(len(prompt), length)) for prompt in prompts) * sizes.layers * sizes.token
    weights = max(sampled) * (sizes.layers * sizes.block + sizes.head) * sizes.item
    return Work(operations / len(records) / 1e9, (looked_at + weights) / len(records) / 1e9)
