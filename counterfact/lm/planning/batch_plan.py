"""How much is computed at once: fixed for each kind of device and size of model, never a function of free memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from counterfact.lm.forward.products import packs_products
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

T = TypeVar("T")
R = TypeVar("R")


class Split(NamedTuple):
    """A batch that did not fit into memory and was computed in halves."""

    stage: str
    rows: int


@dataclass(frozen=True)
class Plan:
    """Sizes of batches. Results agree across plans within float tolerance; within one plan they are the same bytes."""

    tokens_per_batch: int = 2048
    """Rows times padded width in one forward pass."""
    generation_rows: int = 320
    """Texts that are generated side by side."""
    logit_rows: int = 1024
    """Positions whose logits are held at once."""
    chunk: int = 32
    """Requests that an editor computes together."""
    weight_memory: int = 2**30
    """Bytes for weights of their own that records have while they are trained side by side."""
    splits: list[Split] = field(default_factory=list, compare=False)
    """What had to be halved, in order: records in these batches are promised only the tolerance."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory it takes, and the kind of device it is on."""

    device: str
    layers: int
    width: int
    inner: int
    """Width of the MLP."""
    vocabulary: int
    token: int
    """Numbers that attention keeps of a token in a layer: its key and its value."""
    heads: int
    products: int
    """Weights of a block that take part in products."""
    outputs: int
    """Numbers that these products give for a token."""
    weights: int
    """Bytes of all weights."""
    item: int
    """Bytes of a number."""
    packs: bool
    """Whether products are made with packed copies of the weights."""

    @classmethod
    def of(cls, lm: LM) -> "Shape":
        """Look at a model."""
        config: Any = lm.model.config
        heads = int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or lm.width // heads)
        block = lm.model.get_submodule(lm.layout.block(0))
        linear = [name for name, part in block.named_modules() if isinstance(part, nn.Linear | Conv1D)]
        shapes = [weight_shape(lm.model, f"{lm.layout.block(0)}.{name}") for name in linear]
        return cls(
            device=lm.device.type,
            layers=lm.n_layers,
            width=lm.width,
            inner=_inner(lm),
            vocabulary=lm.vocabulary,
            token=2 * head * _key_heads(config),
            heads=heads,
            products=sum(d_in * d_out for d_in, d_out in shapes),
            outputs=sum(d_out for _, d_out in shapes),
            weights=sum(p.numel() * p.element_size() for p in lm.model.parameters()),
            item=lm.dtype.itemsize,
            packs=packs_products(lm),
        )

    @property
    def dense(self) -> int:
        """Bytes of a change of one MLP matrix, in float32 or float64."""
        return self.inner * self.width * max(self.item, 4)


def _key_heads(config: Any) -> int:
    """Heads of a layer's keys, as they are kept."""
    if getattr(config, "multi_query", False) and not config.new_decoder_architecture:
        return 1  # Falcon
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _inner(lm: LM) -> int:
    """Inner width of an MLP; of experts, those that a token goes through together."""
    if not lm.layout.has_experts:
        return weight_shape(lm.model, lm.layout.fc_out(0))[0]
    own = getattr(lm.config, "moe_intermediate_size", None) or lm.config.intermediate_size
    return int(own) * int(lm.config.num_experts_per_tok)


def cut_at(rows: Iterable[R], size: Callable[[R], int], tokens: int, most: int | None = None) -> Iterator[list[R]]:
    """Cut rows, in their order, into batches of at most `tokens` tokens and `most` rows, or of one row that is larger.

    >>> list(cut_at([3, 4, 9, 1], lambda row: row, tokens=8))
    [[3, 4], [9], [1]]
    """
    batch: list[R] = []
    used = 0
    for row in rows:
        if batch and (used + size(row) > tokens or len(batch) == most):
            yield batch
            batch, used = [], 0
        batch.append(row)
        used += size(row)
    if batch:
        yield batch


class DeviceLimits(NamedTuple):
    """The largest sizes of a kind of device, and what cuts them for large models."""

    tokens: int
    states: int
    """Numbers in one state of every token of a batch."""
    rows: int
    cache: int
    """Bytes of keys and values of texts that are generated side by side."""
    logit_rows: int
    logits: int
    """Logits held at once."""
    chunk: int
    weights: int
    """Bytes of weights of their own that records have."""


LIMITS = {
    "cpu": DeviceLimits(2048, 2**20, 320, 2**30, 1024, 2**23, 32, 2**30),
    "mps": DeviceLimits(8192, 2**23, 320, 2**32, 1024, 2**25, 32, 2**32),
    "cuda": DeviceLimits(32768, 2**27, 640, 40 * 2**30, 4096, 2**28, 64, 2**35),
}
"""A processor wants its states in its caches, a GPU rows enough to be busy (measured on two cores of an AMD EPYC,
calculated for an H200; mps is a guess). A device of another kind is treated as mps."""
TEXT = 100
"""Tokens of a generated text that a plan reckons with."""
FEWEST = Plan(tokens_per_batch=128, generation_rows=10, logit_rows=16, chunk=1)
"""One record at a time: the tokens of its search, its texts."""


def default_plan(lm: LM) -> Plan:
    """Return the plan for a model on its kind of device: a function of the device's kind and the model's sizes."""
    return plan_for(Shape.of(lm))


def plan_for(shape: Shape) -> Plan:
    """Return the plan for models of one shape.

    A batch has as many tokens as keep its states within the limit, and as many texts as keep their keys and values
    within it; an editor takes as many requests as keep a changed matrix each within it.
    """
    limit = LIMITS.get(shape.device, LIMITS["mps"])
    text = TEXT * shape.token * shape.layers * shape.item
    return Plan(
        tokens_per_batch=max(2 * FEWEST.tokens_per_batch, min(limit.tokens, limit.states // shape.width)),
        generation_rows=max(4 * FEWEST.generation_rows, min(limit.rows, limit.cache // text)),
        logit_rows=max(FEWEST.logit_rows, min(limit.logit_rows, limit.logits // shape.vocabulary)),
        chunk=max(FEWEST.chunk, min(limit.chunk, limit.weights // shape.dense)),
        weight_memory=limit.weights,
    )


MEMORY_ERRORS = ("can't allocate memory", "out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says where it has no class for it: its CPU allocator, MPS, C++, cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory did not suffice.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"))
    True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_ERRORS)


def in_halves(stage: str, rows: Sequence[T], run: Callable[[Sequence[T]], None], plan: Plan) -> list[T]:
    """Run `rows` in one batch, or in halves as long as memory does not suffice; note each halving in the plan.

    Returns:
        The rows that do not even fit alone.

    >>> def run(rows):
    ...     if sum(rows) > 4:
    ...         raise torch.OutOfMemoryError("too much")
    >>> plan = Plan()
    >>> in_halves("score", [1, 2, 3, 9], run, plan), plan.splits
    ([9], [Split(stage='score', rows=4), Split(stage='score', rows=2)])
    """
    try:
        run(rows)
        return []
    except (RuntimeError, MemoryError) as error:
        # The halves run after this block: until then the traceback keeps the batch's tensors alive.
        if not is_out_of_memory(error):
            raise
    if len(rows) == 1:
        return list(rows)
    plan.splits.append(Split(stage, len(rows)))
    half = len(rows) // 2
    return in_halves(stage, rows[:half], run, plan) + in_halves(stage, rows[half:], run, plan)
