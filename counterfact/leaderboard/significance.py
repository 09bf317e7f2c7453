"""Whether a run differs from the best one: a paired test on common records, adjusted for all comparisons in a table.

The test is the sign-flip test of paired differences (Fisher 1935) in its normal form; a composite is made linear at
the average of the two runs' means. The best row is chosen by the data, so each column counts all pairs of rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.metrics import COMPOSITES
from counterfact.statistics.intervals import Rows

LEVEL = 0.05


class Measured(Protocol):
    """What has values: per metric, shape (records of the split,)."""

    @property
    def values(self) -> Mapping[str, Rows]:
        """Read anew each time, perhaps."""


def paired_p(differences: Rows) -> float:
    r"""Return the two-sided p of differences whose mean is 0 under the null, $z = \sum d_i / \sqrt{\sum d_i^2}$.

    Never less than the exact test of as many differences could give, $2^{1-k}$ for k that are not 0.

    >>> paired_p(np.array([0.0, 0.0])), round(paired_p(np.array([1.0, 1.0, 1.0, -1.0])), 3)
    (1.0, 0.317)
    """
    there = differences[np.isfinite(differences) & (differences != 0)]
    if len(there) == 0:
        return 1.0
    z = abs(there.sum()) / math.sqrt(np.square(there).sum())
    return float(min(1.0, max(math.erfc(z / math.sqrt(2)), 2.0 ** (1 - len(there)))))


def composite_differences(first: Rows, second: Rows, symbol: str = "S") -> Rows:
    """Return, for each record, what it adds to the difference of a harmonic mean, by its gradient at the average.

    Args:
        first: shape (records, parts).
        second: the same records of the other run.
        symbol: of the composite.
    """
    there = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    first, second = first[there], second[there]
    if len(first) == 0:
        return np.empty(0)
    means = (first.mean(axis=0) + second.mean(axis=0)) / 2
    if (means <= 0).any():
        return np.zeros(len(first))
    value = float(COMPOSITES.get(symbol).combine(means))
    gradient = value**2 / (means.size * means**2)
    return np.asarray((first - second) @ gradient)


def best_and_tied(
    runs: Sequence[Measured],
    scores: Sequence[Mapping[str, float | None]],
    columns: Sequence[str],
    benchmark: Benchmark[Any],
) -> list[dict[str, str]]:
    """Return for each run and column "best", "tied" (not shown to differ from the best) or nothing.

    Only the best of each column is compared with the others, so that the values of thousands of runs are read one
    run after the other.

    Args:
        runs: NaN where a record has no value.
        scores: of each run, per column, as they are shown; higher is better.
        columns: metrics and S.
        benchmark: gives the parts of S.
    """
    marks: list[dict[str, str]] = [{} for _ in scores]
    comparisons = max(1, len(columns) * len(scores) * (len(scores) - 1) // 2)
    best = {}
    for column in columns:
        there = [index for index, score in enumerate(scores) if score.get(column) is not None]
        if len(there) > 1:
            best[column] = max(there, key=lambda index: scores[index][column] or 0.0)
    known = {index: runs[index].values for index in set(best.values())}
    for index, run in enumerate(runs):
        values = known.get(index) or run.values
        for column, first in best.items():
            if first == index:
                marks[index][column] = "best"
                continue
            has_one = scores[index].get(column) is not None
            if has_one and _p(known[first], values, column, benchmark) * comparisons > LEVEL:
                marks[index][column] = "tied"
    return marks


def _p(first: Mapping[str, Rows], second: Mapping[str, Rows], column: str, benchmark: Benchmark[Any]) -> float:
    if column != "S":
        return paired_p(first[column] - second[column])
    parts = benchmark.score_parts
    mine, theirs = (np.stack([run[part] for part in parts], axis=1) for run in (first, second))
    return paired_p(composite_differences(mine, theirs))
