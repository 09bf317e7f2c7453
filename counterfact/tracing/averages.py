"""Average indirect effects by class of token, with 95 % intervals.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, figures 3, 7, 15.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterfact.core.errors import BadInput
from counterfact.statistics.intervals import NORMAL_95
from counterfact.tracing.store import Stored

CLASSES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
OF_SUBJECT = CLASSES[:3]
"""The classes of the subject's own tokens."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Average:
    """Mean effect of one class of tokens at each layer."""

    mean: Numbers
    """(layers,), in probability; NaN where no fact has such a token."""
    half: Numbers
    """Half the 95 % interval, (layers,)."""
    facts: int
    tokens: int


@dataclass(frozen=True)
class Averages:
    """Average effects of one kind of trace."""

    kind: str
    by_class: dict[str, Average]
    high: float
    """Mean probability of the answer, clean."""
    low: float
    """Mean probability of the answer, corrupted."""
    total: float
    """Average total effect, `high - low`."""
    facts: int


def classes_of(begin: int, end: int, length: int) -> dict[str, list[int]]:
    """Return the positions of each class in a prompt of `length` tokens with its subject at `begin` to `end - 1`.

    A subject of one token is its own first and last. A token that is both the first after the subject and the
    prompt's last counts as both. A prompt that ends in its subject has none of the last three classes: its last token
    is a subject token. Tokens before the subject are never corrupted and belong to no class.

    >>> classes_of(0, 3, 7)
    {'first subject token': [0], 'middle subject tokens': [1], 'last subject token': [2], \
'first subsequent token': [3], 'further tokens': [4, 5], 'last token': [6]}
    >>> [places for places in classes_of(1, 2, 3).values()]
    [[1], [], [1], [2], [], [2]]
    >>> [places for places in classes_of(0, 2, 2).values()]
    [[0], [], [1], [], [], []]
    """
    after = end < length
    places = (
        [begin],
        list(range(begin + 1, end - 1)),
        [end - 1],
        [end] if after else [],
        list(range(end + 1, length - 1)),
        [length - 1] if after else [],
    )
    return dict(zip(CLASSES, places, strict=True))


def average(facts: Iterable[Stored], kind: str, *, known_only: bool = True) -> Averages:
    """Average one kind of trace over facts.

    Each token counts once; its effect is its score less the corrupted score *of its own fact*. The interval takes a
    fact as the unit: tokens of one fact are no independent observations. For one token a fact it is
    1.96 times the standard deviation over the square root of n.

    Args:
        facts: of one run.
        kind: of trace, as `cells.Kind`.
        known_only: leave out facts whose attribute is not what the model says.

    Raises:
        BadInput: no fact is left, or a fact has no such trace.
    """
    sums: dict[str, list[tuple[int, Numbers]]] = {name: [] for name in CLASSES}
    levels: list[tuple[float, float]] = []
    for fact in facts:
        if known_only and not fact.line["correct"]:
            continue
        effects = effects_of(fact, kind)
        levels.append((fact.line["high"], fact.line["low"]))
        begin, end = fact.line["subject_range"]
        for name, places in classes_of(begin, end, len(fact.line["tokens"])).items():
            rows = [effects[place] for place in places if place in effects]
            if rows:
                sums[name].append((len(rows), np.sum(rows, axis=0)))
    if not levels:
        raise BadInput(
            "no fact is left to average: the model knows none of them; make its own with `counterfact known`"
        )
    high, low = np.mean(levels, axis=0)
    by_class = {name: mean_of_tokens(found) for name, found in sums.items() if found}
    return Averages(kind, by_class, float(high), float(low), float(high - low), len(levels))


def at_last_subject_token(facts: Sequence[Stored], kind: str) -> Average:
    """Return the average effect at the subject's last token, by layer."""
    return mean_of_tokens([(1, effects_of(fact, kind)[fact.line["subject_range"][1] - 1]) for fact in facts])


def effects_of(fact: Stored, kind: str) -> dict[int, Numbers]:
    """Return the indirect effects (layers,) of each token traced, by position."""
    if kind not in fact.arrays:
        raise BadInput(f"fact {fact.known_id} has no trace of kind {kind!r}; it has {', '.join(fact.arrays)}")
    tokens = fact.line["traced_tokens"][kind]
    return dict(zip(tokens, fact.arrays[kind] - fact.line["low"], strict=True))


def summary(averages: Averages) -> dict[str, Any]:
    """Return plain values: for each class its best layer, with the interval there."""
    rows = {}
    for name, found in averages.by_class.items():
        best = int(found.mean.argmax())
        rows[name] = {
            "best_layer": best,
            "effect": float(found.mean[best]),
            "half": float(found.half[best]),
            "facts": found.facts,
            "tokens": found.tokens,
        }
    levels = {"high": averages.high, "low": averages.low, "total_effect": averages.total, "facts": averages.facts}
    return {"kind": averages.kind, **levels, "classes": rows}


def mean_of_tokens(found: list[tuple[int, Numbers]]) -> Average:
    """Return the mean over tokens and its interval over facts.

    Args:
        found: for each fact, how many tokens it has in the class, and the sum (layers,) of their effects.
    """
    counts = np.array([count for count, _ in found])
    sums = np.stack([total for _, total in found])
    mean = sums.sum(0) / counts.sum()
    rest = sums - counts[:, None] * mean
    half = NORMAL_95 * np.sqrt((rest**2).sum(0)) / counts.sum()
    return Average(mean, half, len(found), int(counts.sum()))


def best_sites(averages: Mapping[str, Averages]) -> list[str]:
    """Say in words where each kind of trace is strongest: early at the subject's last token, late at the prompt's."""
    said = []
    for kind, one in averages.items():
        rows = summary(one)["classes"]
        parts = [
            f"{100 * row['effect']:.1f} ± {100 * row['half']:.1f} at the {name}, layer {row['best_layer']}"
            for name in ("last subject token", "last token")
            if (row := rows.get(name))
        ]
        said.append(f"{kind}: {'; '.join(parts)} (points, of {100 * one.total:.1f})")
    return said


def severed_effects(facts: Sequence[Stored], first: int) -> list[str]:
    """Say in words what each layer's state is worth at the subject's last token, and what is left without MLPs.

    Args:
        facts: of a run of severed paths.
        first: the layer of the first column, -1 for the embedding.
    """
    whole, left = (at_last_subject_token(facts, kind) for kind in ("state", "severed_mlp"))
    said = []
    for column in range(min(4, len(whole.mean))):
        place = "the embedding" if first + column < 0 else f"the state after layer {first + column}"
        parts = [f"{100 * one.mean[column]:.1f} ± {100 * one.half[column]:.1f}" for one in (whole, left)]
        said.append(f"{place}: {parts[0]}, MLPs severed {parts[1]} (points)")
    return said
