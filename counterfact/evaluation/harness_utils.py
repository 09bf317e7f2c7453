"""What the task files beside this one share: which documents there are, how one is scored, and how they are averaged.

`counterfact lm-eval-tasks` copies this file; it needs lm-evaluation-harness alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any


def load(file: str, **_metadata: Any) -> dict[str, Any]:
    """Return the documents of a `.jsonl` file beside this one, as the split `test`."""
    from datasets import Dataset  # noqa: PLC0415

    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, tuple[int, float]]:
    """Score one document: of two targets the first must be likelier per token, a single one must be the likeliest.

    Args:
        doc: a line of the file; `tokens` are the targets' numbers of tokens.
        results: log-likelihood, in nats, and whether every token is the likeliest, of each target.

    Returns:
        The record and 1 for right, 0 for wrong, by the metric's name.

    >>> process_results({"metric": "ES", "case_id": 3, "tokens": [2, 1]}, [(-3.0, False), (-2.0, False)])
    {'ES': (3, 1.0)}
    """
    per_token = [nats / tokens for (nats, _), tokens in zip(results, doc["tokens"], strict=True)]
    right = per_token[0] > per_token[1] if len(per_token) == 2 else results[0][1]
    return {doc["metric"]: (doc["case_id"], float(right))}


def mean_of_records(scored: Sequence[tuple[int, float]]) -> float:
    """Return the mean over records of the mean over each record's documents, a fraction.

    >>> mean_of_records([(0, 1.0), (0, 0.0), (1, 1.0)])
    0.75
    """
    records: dict[int, list[float]] = {}
    for case_id, value in scored:
        records.setdefault(case_id, []).append(value)
    return fmean(map(fmean, records.values()))
