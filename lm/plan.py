"""How much is computed at once: fixed for each kind of device, never a function of what memory is free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


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
    splits: list[Split] = field(default_factory=list, compare=False)
    """What had to be halved, in order: records in these batches are promised only the tolerance."""


def default_plan(device: torch.device) -> Plan:
    """Return the plan for a kind of device: small batches keep a processor's caches, large ones fill a GPU."""
    if device.type == "cpu":
        return Plan()
    return Plan(tokens_per_batch=32768, generation_rows=640, logit_rows=4096, chunk=64)


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
    except (torch.OutOfMemoryError, MemoryError):
        # The halves run after this block: until then the traceback keeps the batch's tensors alive.
        pass
    if len(rows) == 1:
        return list(rows)
    plan.splits.append(Split(stage, len(rows)))
    half = len(rows) // 2
    return in_halves(stage, rows[:half], run, plan) + in_halves(stage, rows[half:], run, plan)
