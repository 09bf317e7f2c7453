"""The least work that the main job is: products that no method of these results can leave out, and bytes to be read.

Counted: products with weights. In the last block every token gives a key and a value, and the rest of the block and
the output layer are run only at positions that are read. The context texts before a prompt are the same for all
records, and count nothing; nor does anything of the unedited model. Targets that differ in their last token alone
share a row.

Not counted: attention's own products, norms, activations, softmax, the optimiser, the solution of C u = k. Not taken
off: what a pass could leave out in the first block above an edit, prompts of a record that begin alike, layers below
the edit that scoring and generation share with the unedited model. Both are a few per cent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from counterfact.editing.requests import Encoded
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.model.language_model import LM
from speed.machine import Ceiling
from speed.one_at_a_time import scored_prompts


@dataclass(frozen=True)
class Work:
    """Least work of one stage, for one record of a chunk."""

    gflop: float
    """1e9 operations in products with weights."""
    gigabytes: float
    """1e9 bytes: weights, once a pass for the whole chunk, and keys and values of earlier tokens, once a token."""

    def seconds(self, ceiling: Ceiling) -> float:
        """The least time at measured limits, if reading and computing overlap wholly."""
        return max(self.gflop / ceiling.gflops, self.gigabytes / ceiling.gigabytes)


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, and of bytes kept a token and layer."""

    block: int
    head: int
    token: int
    item: int
    layers: int
    kept: int = 0
    """The weights of a block that make keys and values."""

    @classmethod
    def of(cls, lm: LM) -> "Sizes":
        """Count the model's weights that take part in products."""
        block = lm.model.get_submodule(lm.layout.block(0))
        linear = [part for part in block.modules() if isinstance(part, Conv1D | nn.Linear)]
        item, config = lm.dtype.itemsize, lm.model.config
        heads = config.num_attention_heads
        share = getattr(config, "num_key_value_heads", None) or heads
        both = 2 * lm.width * share // heads  # numbers kept a token and layer
        return cls(
            block=sum(p.weight.numel() for p in linear),
            head=lm.vocabulary * lm.width,
            token=both * item,
            item=item,
            layers=lm.n_layers,
            kept=both * lm.width,
        )

    def operations(self, layers: int, tokens: int, read: int) -> float:
        """Operations of a pass of `tokens` through the last `layers` layers, which is read at some positions."""
        if not layers:
            return 2.0 * read * self.head
        whole = (layers - 1) * self.block
        return 2.0 * (tokens * (whole + self.kept) + read * (self.block - self.kept + self.head))


def edit_work(lm: LM, items: Sequence[Encoded], passes: Sequence[int], layer: int) -> Work:
    """One pass below and in the edited layer, one above it before the subject, and the search from the subject on.

    Args:
        lm: the model.
        items: the rows of each record of the chunk; the first is the bare prompt.
        passes: forward passes of each record's search; there is a backward pass less, of as many operations.
        layer: the edited layer.
    """
    sizes, upper = Sizes.of(lm), lm.n_layers - layer - 1
    operations, read = 0.0, 0
    for item, forward in zip(items, passes, strict=True):
        half_steps, bare = 2 * forward - 1, item.rows[0]
        # Of a row, what is longer than the bare prompt is context.
        tokens = sum(min(len(row.ids), len(bare.ids)) for row in item.rows)
        before = sum(min(row.lookup, bare.lookup) for row in item.rows)
        scored = (len(item.rows) - 1) * len(item.target) + 1
        operations += 2 * tokens * (layer + 1) * sizes.block + sizes.operations(upper, before, 0)
        operations += half_steps * sizes.operations(upper, item.suffixes, scored)
        read += half_steps * before * upper * sizes.token
    weights = (2 * max(passes) - 1) * (upper * sizes.block + sizes.head) * sizes.item
    return Work(operations / len(items) / 1e9, (read + weights) / len(items) / 1e9)


def score_work(lm: LM, records: Sequence[CounterFactRecord]) -> Work:
    """Every token of the 13 prompts once, and logits where a token of a target is read."""
    sizes, tokens, reads = Sizes.of(lm), 0, 0
    for record in records:
        asked = record.requested_rewrite
        beginnings = {tuple(lm.target_tokens(target)[:-1]) for target in (asked.target_new.text, asked.true_text)}
        for prompt in lm.encoding.prompts(scored_prompts(record)):
            tokens += sum(len(prompt) + len(beginning) for beginning in beginnings)
            reads += sum(1 + len(beginning) for beginning in beginnings)
    weights = (sizes.layers * sizes.block + sizes.head) * sizes.item
    operations = sizes.operations(sizes.layers, tokens, reads)
    return Work(operations / len(records) / 1e9, weights / len(records) / 1e9)


def generate_work(lm: LM, records: Sequence[CounterFactRecord], length: int) -> Work:
    """Every token of every text but the last once; each looks at the keys and values of all before it."""
    sizes = Sizes.of(lm)
    prompts = [prompt for record in records for prompt in lm.encoding.prompts(record.generation_prompts)]
    sampled = [max(0, length - len(prompt)) for prompt in prompts]
    operations = sizes.operations(sizes.layers, len(prompts) * (length - 1), sum(sampled))
    looked_at = sum(sum(range(len(prompt), length)) for prompt in prompts) * sizes.layers * sizes.token
    weights = max(sampled) * (sizes.layers * sizes.block + sizes.head) * sizes.item
    return Work(operations / len(records) / 1e9, (looked_at + weights) / len(records) / 1e9)
