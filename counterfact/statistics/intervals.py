"""95 % intervals over records: of shares, of bounded and unbounded means, and of what is made of several means.

An interval is a method of its own: `INTERVALS` is raised whenever one could come out differently, and is kept with
every number, so that what was computed by an earlier rule is computed anew before it is shown.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from counterfact.contracts.metrics import Bounds, IntervalRule

Rows = NDArray[np.float64]
"""Shape (records, parts); NaN where a record has no value."""

INTERVALS = 2
"""Definition of all intervals here; 1 was the mean ± 1.96 population standard deviations / √n for all of them."""
NORMAL_95 = 1.96
RESAMPLES = 2000
BATCH = 50


@dataclass(frozen=True)
class Estimate:
    """A number over records and its 95 % interval, which one record alone does not have; `None` where there is none."""

    value: float | None
    n: int
    low: float | None
    high: float | None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], rule: IntervalRule, bounds: Bounds = (None, None)) -> Estimate:
    r"""Return the mean of records and its interval.

    With n values of mean m, and z = 1.96:

    - `wilson`, for records that are 0 or 1 (Wilson 1927): all p with $|m - p| \le z \sqrt{p (1 - p) / n}$;
    - `student`, for values without bounds: $m \pm t_{n-1} s / \sqrt{n}$, s the sample's standard deviation;
    - `plus_four`, for values between two bounds: `student` of the values and each bound twice (as Agresti and Coull
      1998 have it for shares).

    Args:
        values: one for each record.
        rule: which of them.
        bounds: the least and the largest value of a record; no end of an interval lies outside.

    >>> share = mean_interval([1.0] * 20, "wilson", (0.0, 1.0))
    >>> share.value, round(share.low, 3), share.high
    (1.0, 0.839, 1.0)
    >>> mean_interval([0.5], "plus_four", (0.0, 1.0)), mean_interval([], "student")
    (Estimate(value=0.5, n=1, low=None, high=None), Estimate(value=None, n=0, low=None, high=None))
    """
    n = len(values)
    if n == 0:
        return Estimate(None, 0, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, 1, None, None)
    centre, half = {"wilson": _wilson, "plus_four": _plus_four, "student": _student}[rule](values, mean, bounds)
    least, largest = (math.inf * sign if end is None else end for sign, end in zip((-1, 1), bounds, strict=True))
    # A mean at a bound is the end of its interval, whatever the last bits of a sum are.
    return Estimate(mean, n, min(max(centre - half, least), mean), max(min(centre + half, largest), mean))


def difference_interval(differences: Sequence[float], rule: IntervalRule, bounds: Bounds) -> Estimate:
    """Return the mean of paired differences and its interval: by `plus_four` where both runs' values have bounds.

    Args:
        differences: one for each record.
        rule: of the metric itself.
        bounds: of the metric itself.
    """
    least, largest = bounds
    if rule == "student" or least is None or largest is None:
        return mean_interval(differences, "student")
    return mean_interval(differences, "plus_four", (least - largest, largest - least))


def published_interval(values: Sequence[float]) -> Estimate:
    r"""Return the mean and $\pm 1.96\,\sigma / \sqrt{n}$, with the population's standard deviation, as the paper does.

    >>> published_interval([0.0, 1.0, 1.0, 0.0])
    Estimate(value=0.5, n=4, low=0.010000000000000009, high=0.99)
    """
    n = len(values)
    if n == 0:
        return Estimate(None, 0, None, None)
    mean = math.fsum(values) / n
    half = NORMAL_95 * _deviation(values, mean) / math.sqrt(n)
    return Estimate(mean, n, mean - half, mean + half)


def _wilson(values: Sequence[float], mean: float, _bounds: Bounds) -> tuple[float, float]:
    n, square = len(values), NORMAL_95**2
    spread = math.sqrt(max(mean * (1 - mean), 0) / n + square / (4 * n**2))
    return (mean + square / (2 * n)) / (1 + square / n), NORMAL_95 * spread / (1 + square / n)


def _plus_four(values: Sequence[float], _mean: float, bounds: Bounds) -> tuple[float, float]:
    least, largest = bounds
    if least is None or largest is None:
        raise ValueError(f"expected two bounds for an interval by plus four, got {bounds}")
    more = [*values, least, least, largest, largest]
    return _student(more, math.fsum(more) / len(more), bounds)


def _student(values: Sequence[float], mean: float, _bounds: Bounds) -> tuple[float, float]:
    n = len(values)
    sample = _deviation(values, mean) * math.sqrt(n / (n - 1))
    return mean, float(student_t.ppf(0.975, n - 1)) * sample / math.sqrt(n)


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def bootstrap(rows: Sequence[Rows], statistic: Callable[..., Any], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Return a statistic of column means, with the percentile interval of resampled records.

    Two records are added before resampling, one with 0 and one with 1 in every part, so that an interval has a width
    where all records are alike. The value is that of the records alone. The tables in `rows` are resampled together,
    row i of one with row i of the others: for a paired difference they are two editors on the same records.

    Args:
        rows: tables of shape (records, parts) each, equally many records, of values from 0 to 1.
        statistic: column means, one array of shape (..., parts) for each table, to values of shape (...).
        seed: of the resampling.
        resamples: how often.

    >>> table = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> bootstrap([table, table], lambda a, b: (a - b).sum(axis=-1), seed=0)
    Estimate(value=0.0, n=2, low=0.0, high=0.0)
    """
    n = len(rows[0])
    if any(len(table) != n for table in rows):
        raise ValueError(f"expected tables of equally many records, got {[len(table) for table in rows]}")
    if n == 0:
        return Estimate(None, 0, None, None)
    value = float(statistic(*(column_means(table[None]) for table in rows))[0])
    if not math.isfinite(value):
        return Estimate(None, n, None, None)
    if n == 1:
        return Estimate(value, 1, None, None)
    rows = [np.concatenate([table, np.zeros((1, table.shape[1])), np.ones((1, table.shape[1]))]) for table in rows]
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, BATCH):
        index = rng.integers(0, n + 2, size=(min(BATCH, resamples - start), n + 2))
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
