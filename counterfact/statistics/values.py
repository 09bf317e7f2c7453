"""Read the values of one record's block: pairs of negative log-likelihoods, lists of booleans, means."""

import math
from collections.abc import Callable, Iterable
from operator import lt

from counterfact.contracts.metrics import Block
from counterfact.core.files import finite

Pair = tuple[float | None, float | None]
"""Negative log-likelihoods in nats of (o*, o_c) after one prompt; `None` where the model gave no number."""


def pairs(block: Block, prompts: str) -> list[Pair]:
    """Return the values per token after each prompt of one sort ("rewrite", "paraphrase", ...)."""
    stored = block.get(f"{prompts}_prompts_probs") or []
    return [(finite(value.get("target_new")), finite(value.get("target_true"))) for value in stored]


def total_pairs(block: Block, prompts: str) -> list[Pair]:
    """Return the values of whole targets: the stored means times the numbers of tokens; none if these are unknown."""
    tokens = block.get("target_tokens") or {}
    new, true = tokens.get("new"), tokens.get("true")
    if new is None or true is None:
        return []
    return [(None if a is None else a * new, None if b is None else b * true) for a, b in pairs(block, prompts)]


def success(values: Iterable[Pair], likelier: Callable[[float, float], bool]) -> float | None:
    """Return the share of prompts where `likelier(o*, o_c)` holds; a missing number is a failure."""
    return mean([float(a is not None and b is not None and likelier(a, b)) for a, b in values])


def magnitude(values: Iterable[Pair]) -> float | None:
    """Return the mean of P(o*) - P(o_c) over the prompts that have both numbers."""
    return mean([math.exp(-a) - math.exp(-b) for a, b in values if a is not None and b is not None])


def accuracy(block: Block, prompts: str) -> float | None:
    """Return the share of `true` among the booleans of one sort of prompt."""
    return mean([float(value) for value in block.get(f"{prompts}_prompts_correct") or []])


def took(block: Block) -> bool | None:
    """Return whether an edit took: after its own prompt the new object is likelier than the true one (a tie is not).

    Where the true object is not scored, every token of the new one must be the model's first choice; `None` where the
    prompt of the edit was not asked at all.

    >>> took({"rewrite_prompts_probs": [{"target_new": 2.0, "target_true": 2.0}]})
    False
    >>> took({"rewrite_prompts_correct": [True, True]}), took({})
    (True, None)
    """
    asked = pairs(block, "rewrite")
    share = success(asked, lt) if asked else accuracy(block, "rewrite")
    return None if share is None else share == 1.0


def mean(values: list[float]) -> float | None:
    """Return the mean, summed exactly so that the order does not matter; `None` of nothing."""
    return math.fsum(values) / len(values) if values else None
