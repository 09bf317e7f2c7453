"""Intervals: by hand, against numpy, and their coverage on data whose truth is known."""

import math
from typing import Any

import numpy as np
import pytest

from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.metrics.score import harmonic_mean
from counterfact.statistics.intervals import bootstrap, column_means, mean_interval
from counterfact.statistics.summary import paired_differences


def test_mean_interval_by_hand() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (estimate.value, estimate.n) == (2.5, 4)
    half = 1.96 * math.sqrt(1.25) / 2
    assert (estimate.low, estimate.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert estimate.half == pytest.approx(half)


def test_of_one_and_of_none() -> None:
    assert mean_interval([3.0]).half == 0.0
    nothing = mean_interval([])
    assert (nothing.value, nothing.n, nothing.low, nothing.high, nothing.half) == (None, 0, None, None, None)
    assert bootstrap([np.empty((0, 3))], harmonic_mean, 0).value is None


def test_against_numpy() -> None:
    values = np.random.default_rng(0).normal(size=1001)
    estimate = mean_interval(values.tolist())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (estimate.value, estimate.half) == (pytest.approx(values.mean()), pytest.approx(half))


def test_column_means_pass_over_what_is_missing() -> None:
    table = np.array([[[1.0, np.nan], [3.0, np.nan]], [[1.0, 2.0], [np.nan, 4.0]]])
    assert np.array_equal(column_means(table), [[2.0, np.nan], [1.0, 3.0]], equal_nan=True)


def test_a_missing_part_leaves_no_value() -> None:
    estimate = bootstrap([np.array([[1.0, np.nan], [0.5, np.nan]])], harmonic_mean, seed=0)
    assert (estimate.value, estimate.n, estimate.low, estimate.high) == (None, 2, None, None)


def test_seeded() -> None:
    table = np.random.default_rng(0).random((100, 3))
    assert bootstrap([table], harmonic_mean, 1) == bootstrap([table], harmonic_mean, 1)
    assert bootstrap([table], harmonic_mean, 1) != bootstrap([table], harmonic_mean, 2)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).random((2000, 1))
    normal, drawn = mean_interval(values[:, 0].tolist()), bootstrap([values], lambda means: means[..., 0], 0)
    assert drawn.value == pytest.approx(normal.value)
    assert drawn.half == pytest.approx(normal.half, rel=0.1)


def test_the_interval_of_s_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = float(harmonic_mean([0.9, 0.6, 0.3]))
    hits = 0
    for trial in range(100):
        table = (rng.random((300, 3)) < [0.9, 0.6, 0.3]).astype(float)
        estimate = bootstrap([table], harmonic_mean, seed=trial, resamples=400)
        assert estimate.low is not None and estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    assert 88 <= hits <= 99


def test_paired_tables_are_resampled_together() -> None:
    table = np.random.default_rng(0).random((50, 3))
    difference: Any = bootstrap([table + 0.25, table], lambda a, b: (a - b).mean(axis=-1), 0)
    assert (difference.low, difference.high) == pytest.approx((0.25, 0.25))
    with pytest.raises(ValueError, match="equally many records"):
        bootstrap([table, table[:-1]], lambda a, b: a, 0)


def test_a_paired_interval_is_narrower_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    first = [{"reference_score": float(h)} for h in hard]
    second = [{"reference_score": float(h) - 0.05 + rng.normal() * 0.01} for h in hard]
    estimate = paired_differences(first, second, COUNTERFACT)["RS"].estimate
    assert estimate.value == pytest.approx(5.0, abs=0.2)
    assert estimate.half is not None and estimate.half < 0.2
    wide = mean_interval([100 * float(h) for h in hard]).half
    assert wide is not None and wide > 2
