"""Means with 95 % intervals over records, and bootstrap intervals of what is made of several means."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
"""Shape (records, parts); NaN where a record has no value."""

NORMAL_95 = 1.96
RESAMPLES = 2000
BATCH = 50


@dataclass(frozen=True)
class Estimate:
    """A number over records and its 95 % interval; all `None` where there is nothing to average."""

    value: float | None
    n: int
    low: float | None
    high: float | None

    @property
    def half(self) -> float | None:
        """Half the width of the interval, what the paper prints behind a number."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float]) -> Estimate:
    r"""Return the mean and $\pm 1.96\,\sigma / \sqrt{n}$, with the population's standard deviation, as the paper does.

    Args:
        values: one for each record; n is their number, never a constant.

    >>> mean_interval([0.0, 1.0, 1.0, 0.0])
    Estimate(value=0.5, n=4, low=0.010000000000000009, high=0.99)
    >>> mean_interval([])
    Estimate(value=None, n=0, low=None, high=None)
    """
    n = len(values)
    if n == 0:
        return Estimate(None, 0, None, None)
    mean = math.fsum(values) / n
    half = NORMAL_95 * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n / n)
    return Estimate(mean, n, mean - half, mean + half)


def bootstrap(rows: Sequence[Rows], statistic: Callable[..., Any], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Return a statistic of column means, with the percentile interval of resampled records.

    The tables in `rows` are resampled together, row i of one with row i of the others: for a paired difference they
    are two editors on the same records.

    Args:
        rows: tables of shape (records, parts) each, equally many records.
        statistic: column means, one array of shape (..., parts) for each table, to values of shape (...).
        seed: of the resampling.

    >>> table = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> bootstrap([table], lambda means: means.sum(axis=-1), seed=0)
    Estimate(value=1.0, n=2, low=1.0, high=1.0)
    """
    n = len(rows[0])
    if any(len(table) != n for table in rows):
        raise ValueError(f"expected tables of equally many records, got {[len(table) for table in rows]}")
    if n == 0:
        return Estimate(None, 0, None, None)
    value = float(statistic(*(column_means(table[None]) for table in rows))[0])
    if not math.isfinite(value):
        return Estimate(None, n, None, None)
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, BATCH):
        index = rng.integers(0, n, size=(min(BATCH, resamples - start), n))
        drawn.append(np.atleast_1d(statistic(*(column_means(table[index]) for table in rows))))
    values = np.concatenate(drawn)
    low, high = np.percentile(values[np.isfinite(values)], [2.5, 97.5])
    return Estimate(value, n, float(low), float(high))


def column_means(tables: Rows) -> Rows:
    """Return the means over records of what is there, NaN where nothing is.

    Args:
        tables: shape (resamples, records, parts).

    Returns:
        Shape (resamples, parts).
    """
    there = ~np.isnan(tables)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, tables, 0.0).sum(axis=1) / there.sum(axis=1))
