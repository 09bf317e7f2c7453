"""Statistics of the board by simulation: intervals cover the truth, and marks are seldom false."""

from typing import Any

import numpy as np

from leaderboard.significance import best_and_tied, composite_differences, paired_p
from metrics.intervals import bootstrap, mean_interval
from metrics.score import harmonic_mean

PARTS = {"ES": 0.9, "PS": 0.6, "NS": 0.4}


def test_mean_intervals_cover_95_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        estimate = mean_interval((rng.random(300) < 0.6).astype(float).tolist())
        assert estimate.low is not None and estimate.high is not None
        hits += estimate.low <= 0.6 <= estimate.high
    assert 0.93 <= hits / 2000 <= 0.97


def test_intervals_of_s_cover_95_in_100() -> None:
    rng = np.random.default_rng(1)
    truth, hits = float(harmonic_mean(list(PARTS.values()))), 0
    for trial in range(400):
        table = (rng.random((300, 3)) < list(PARTS.values())).astype(float)
        estimate = bootstrap([table], harmonic_mean, seed=trial, resamples=400)
        assert estimate.low is not None and estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / 400 <= 0.97


def board(rng: Any, chances: list[dict[str, float]], n: int = 200) -> list[dict[str, str]]:
    hard = rng.random((n, 3)) * 0.2 - 0.1
    runs = [{name: (rng.random(n) < chance[name] + hard[:, i]).astype(float) for i, name in enumerate(PARTS)}
            for chance in chances]  # fmt: skip
    scores: list[dict[str, float | None]] = [
        {name: float(values.mean()) for name, values in run.items()} for run in runs
    ]
    for score in scores:
        score["S"] = float(harmonic_mean([score[name] for name in PARTS]))
    return best_and_tied(runs, scores, ["S", *PARTS], "counterfact")


def test_under_the_null_hardly_a_table_says_significant() -> None:
    rng = np.random.default_rng(2)
    false = sum(any(set(row) < {"S", *PARTS} for row in board(rng, [PARTS] * 6)) for _ in range(400))
    assert false / 400 <= 0.05


def test_a_true_difference_is_found() -> None:
    worse = {**PARTS, "ES": 0.5}
    best, other = board(np.random.default_rng(3), [PARTS, worse])
    assert best["ES"] == "best" and "ES" not in other


def test_by_hand() -> None:
    assert paired_p(np.array([1.0])) == 1.0
    assert paired_p(np.array([np.nan, 0.0])) == 1.0
    assert 1e-6 < paired_p(np.ones(20)) < 1e-5
    a, b = np.full((4, 3), 0.5), np.full((4, 3), 0.4)
    assert np.allclose(composite_differences(a, b), 0.1)
