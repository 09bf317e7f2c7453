"""Intervals: by hand, against numpy, and their coverage on data whose truth is known."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from counterfact.contracts.metrics import IntervalRule
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.metrics.score import harmonic_mean
from counterfact.statistics.intervals import (
    Estimate,
    bootstrap,
    column_means,
    difference_interval,
    mean_interval,
    published_interval,
)
from counterfact.statistics.summary import paired_differences

SHARES, SIZES = (0.5, 0.9, 0.95, 0.99, 1.0), (20, 100, 1000)


def test_intervals_by_hand() -> None:
    wilson = mean_interval([1.0] * 8 + [0.0] * 2, "wilson", (0.0, 1.0))
    assert (wilson.value, wilson.n) == (0.8, 10)
    assert (wilson.low, wilson.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    plus_four = mean_interval([1.0, 0.5], "plus_four", (0.0, 1.0))  # of 0, 0, 0.5, 1, 1, 1
    half = 2.570582 * np.std([0, 0, 0.5, 1, 1, 1], ddof=1) / math.sqrt(6)
    assert (plus_four.low, plus_four.high) == (pytest.approx(7 / 12 - half), 1.0)
    student = mean_interval([1.0, 2.0, 3.0, 4.0], "student")
    half = 3.18245 * np.std([1, 2, 3, 4], ddof=1) / 2
    assert (student.low, student.high) == (pytest.approx(2.5 - half, abs=1e-4), pytest.approx(2.5 + half, abs=1e-4))
    published = published_interval([1.0, 2.0, 3.0, 4.0])
    assert published.half == pytest.approx(1.96 * math.sqrt(1.25) / 2)


@pytest.mark.parametrize("rule", ["wilson", "plus_four", "student"])
def test_of_one_and_of_none(rule: IntervalRule) -> None:
    one = mean_interval([1.0], rule, (0.0, 1.0))
    assert (one.value, one.n, one.low, one.high, one.half) == (1.0, 1, None, None, None)
    assert mean_interval([], rule, (0.0, 1.0)) == Estimate(None, 0, None, None)
    assert bootstrap([np.empty((0, 3))], harmonic_mean, 0).value is None
    assert bootstrap([np.ones((1, 3))], harmonic_mean, 0) == Estimate(1.0, 1, None, None)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.sampled_from(["plus_four", "student"]))
def test_no_interval_leaves_the_scale_or_its_value(values: list[float], rule: IntervalRule) -> None:
    found = mean_interval(values, rule, (-1.0, 1.0))
    assert found.low is not None and found.high is not None and found.value is not None
    assert -1 <= found.low <= found.value <= found.high <= 1 or found.value == pytest.approx(found.low)


def coverage(n: int, p: float) -> float:
    """How often Wilson's interval holds p, exactly."""
    covered = 0.0
    for count in range(n + 1):
        found = mean_interval([1.0] * count + [0.0] * (n - count), "wilson", (0.0, 1.0))
        assert found.low is not None and found.high is not None
        covered += float(binom.pmf(count, n, p)) * (found.low <= p <= found.high)
    return covered


@pytest.mark.parametrize("n", SIZES)
def test_intervals_cover_the_truth_near_the_ends_too(n: int) -> None:
    rng = np.random.default_rng(n)
    for p in SHARES:
        assert 0.89 <= coverage(n, p) <= 1  # shares jump from one to the next: 0.95 on average over p
        hits, trials = 0, 400
        for _ in range(trials):
            prompts = (rng.random((n, 2)) < p).mean(axis=1)  # as PS has them
            found = mean_interval(prompts.tolist(), "plus_four", (0.0, 1.0))
            assert found.low is not None and found.high is not None
            hits += found.low <= p <= found.high
        assert hits / trials >= 0.935


@pytest.mark.parametrize("n", [*SIZES[:-1], pytest.param(SIZES[-1], marks=pytest.mark.soak)])
@pytest.mark.parametrize("chances", [(1.0, 0.9, 0.6), (0.99, 0.95, 0.8), (0.01, 0.03, 0.95)])
def test_the_interval_of_s_covers_the_truth(n: int, chances: tuple[float, ...]) -> None:
    rng, truth, trials = np.random.default_rng(n), float(harmonic_mean(chances)), 150
    hits = 0
    for trial in range(trials):
        table = (rng.random((n, 3)) < chances).astype(float)
        found = bootstrap([table], harmonic_mean, seed=trial, resamples=400)
        assert found.low is not None and found.high is not None and found.low < found.high
        hits += found.low <= truth <= found.high
    assert hits / trials >= 0.91


def test_differences_of_equal_runs_have_a_width_and_their_sign_does_not_matter() -> None:
    equal = difference_interval([0.0] * 20, "wilson", (0.0, 1.0))
    assert (equal.value, equal.low) == (0.0, -(equal.high or 0.0))
    assert equal.half == pytest.approx(2.0687 * math.sqrt(4 / 23) / math.sqrt(24), abs=1e-4)
    values = [0.5, -0.25, 1.0, 0.0]
    one, other = (difference_interval([s * v for v in values], "plus_four", (-1.0, 1.0)) for s in (1, -1))
    assert (one.low, one.high) == (pytest.approx(-(other.high or 0)), pytest.approx(-(other.low or 0)))
    assert difference_interval([10.0, 30.0], "student", (0.0, None)).value == 20.0


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


def test_bootstrap_of_a_mean_agrees_with_the_other_interval() -> None:
    values = np.random.default_rng(0).random((2000, 1))
    found = mean_interval(values[:, 0].tolist(), "plus_four", (0.0, 1.0))
    drawn = bootstrap([values], lambda means: means[..., 0], 0)
    assert (drawn.value, drawn.half) == (pytest.approx(found.value), pytest.approx(found.half, rel=0.1))


def test_paired_tables_are_resampled_together() -> None:
    table = np.random.default_rng(0).random((50, 3))
    difference: Any = bootstrap([table + 0.25, table], lambda a, b: (a - b).mean(axis=-1), 0)
    # Two more records, on which nothing differs.
    assert difference.value == pytest.approx(0.25)
    assert 0.2 < difference.low < difference.high <= 0.25 + 1e-12
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
    wide = mean_interval([100 * float(h) for h in hard], "student").half
    assert wide is not None and wide > 2
