"""Statistics of the board by simulation: intervals cover the truth, and marks are seldom false."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.stats import norm

from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.leaderboard.significance import LEVEL, best_and_tied, composite_differences, paired_p
from counterfact.metrics.score import harmonic_mean
from counterfact.statistics.intervals import bootstrap

PARTS = {"ES": 0.9, "PS": 0.6, "NS": 0.4}


class Made(NamedTuple):
    """A run's values."""

    values: dict[str, Any]


def board(rng: Any, chances: list[dict[str, float]], n: int = 200) -> list[dict[str, str]]:
    hard = rng.random((n, 3)) * 0.2 - 0.1
    runs = [{name: (rng.random(n) < chance[name] + hard[:, i]).astype(float) for i, name in enumerate(PARTS)}
            for chance in chances]  # fmt: skip
    scores: list[dict[str, float | None]] = [
        {name: float(values.mean()) for name, values in run.items()} for run in runs
    ]
    for score in scores:
        score["S"] = float(harmonic_mean([score[name] for name in PARTS]))
    return best_and_tied([Made(run) for run in runs], scores, ["S", *PARTS], COUNTERFACT)


def test_under_the_null_hardly_a_table_says_significant() -> None:
    rng = np.random.default_rng(2)
    false = sum(any(set(row) < {"S", *PARTS} for row in board(rng, [PARTS] * 6)) for _ in range(400))
    assert false / 400 <= 0.05


def found(rng: Any, chances: list[dict[str, float]], column: str, tables: int, n: int) -> float:
    """Return in which share of tables the second run is said to differ from the first in a column."""
    hits = 0
    for _ in range(tables):
        first, second = board(rng, chances, n)
        hits += column not in second or column not in first
    return hits / tables


def expected_power(difference: float, spread: float, n: int, comparisons: int) -> float:
    """Return how often a normal test at the adjusted level finds a difference of paired means."""
    limit = norm.isf(LEVEL / comparisons / 2)
    return float(norm.sf(limit - difference * np.sqrt(n) / spread))


def spread_of(a: float, b: float) -> float:
    """Return the standard deviation of the difference of two shares, each record with its own hardness within 0.1."""
    hard = np.linspace(-0.1, 0.1, 2001)
    p, q = a + hard, b + hard
    return float(np.sqrt(np.mean(p * (1 - q) + q * (1 - p)) - (a - b) ** 2))


@pytest.mark.parametrize(("worse", "n"), [(0.80, 200), (0.75, 200), (0.85, 1000)])
def test_a_difference_of_means_is_found_as_often_as_it_should_be(worse: float, n: int) -> None:
    power = found(np.random.default_rng(3), [PARTS, {**PARTS, "ES": worse}], "ES", 300, n)
    wanted = expected_power(PARTS["ES"] - worse, spread_of(PARTS["ES"], worse), n, 4)
    assert 0.1 < wanted < 0.99
    assert abs(power - wanted) < 0.1, (power, wanted)


@pytest.mark.parametrize(("worse", "n"), [(0.30, 300), (0.34, 500), (0.33, 1000)])
def test_a_difference_of_s_is_found_as_often_as_resampling_finds_it(worse: float, n: int) -> None:
    """The mark of S, a test made linear, against the paired bootstrap's own spread of the harmonic mean."""
    rng, chances = np.random.default_rng(4), [PARTS, {**PARTS, "NS": worse}]
    power = found(rng, chances, "S", 300, n)
    true = [float(harmonic_mean([chance[name] for name in PARTS])) for chance in chances]
    drawn = []
    for _ in range(300):
        hard = rng.random((n, 3)) * 0.2 - 0.1
        means = [(rng.random((n, 3)) < np.array(list(chance.values())) + hard).mean(axis=0) for chance in chances]
        drawn.append(float(harmonic_mean(means[0])) - float(harmonic_mean(means[1])))
    wanted = expected_power(true[0] - true[1], float(np.std(drawn)) * np.sqrt(n), n, 4)
    assert 0.1 < wanted < 0.99
    assert abs(power - wanted) < 0.1, (power, wanted)


def test_the_mark_of_s_agrees_with_the_paired_bootstrap() -> None:
    rng, agree = np.random.default_rng(5), 0
    for trial in range(100):
        hard = rng.random((400, 3)) * 0.2 - 0.1
        first = (rng.random((400, 3)) < np.array([0.9, 0.6, 0.4]) + hard).astype(float)
        second = (rng.random((400, 3)) < np.array([0.9, 0.6, 0.33]) + hard).astype(float)
        estimate = bootstrap([first, second], lambda a, b: harmonic_mean(a) - harmonic_mean(b), trial, 400)
        assert estimate.low is not None and estimate.high is not None
        says = not estimate.low <= 0 <= estimate.high
        agree += says == (paired_p(composite_differences(first, second)) < LEVEL)
    assert agree >= 95


def test_by_hand() -> None:
    assert paired_p(np.array([1.0])) == 1.0
    assert paired_p(np.array([np.nan, 0.0])) == 1.0
    assert 1e-6 < paired_p(np.ones(20)) < 1e-5
    a, b = np.full((4, 3), 0.5), np.full((4, 3), 0.4)
    assert np.allclose(composite_differences(a, b), 0.1)
