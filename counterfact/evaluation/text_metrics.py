"""Fluency and consistency of one record's texts: while a run goes on, or afterwards where they were deferred."""

import importlib.util
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from counterfact.core.datasets import ReferenceTexts
from counterfact.core.errors import BadInput
from counterfact.metrics.consistency import DEFINITION as CONSISTENCY
from counterfact.metrics.consistency import ReferenceScorer
from counterfact.metrics.fluency import DEFINITION as FLUENCY
from counterfact.metrics.fluency import generation_entropy

DEFINITIONS = {"fluency": FLUENCY, "consistency": CONSISTENCY}


class TextScorer:
    """Scores texts against the reference texts of one data set, which are fitted when the first text comes.

    Raises:
        BadInput: nltk is not installed.
    """

    def __init__(self, references: ReferenceTexts | None) -> None:
        if importlib.util.find_spec("nltk") is None:
            raise BadInput(
                "fluency needs nltk: `pip install nltk`, or run with --defer-text-metrics and then, where it is "
                "installed, `counterfact score-texts RUN`"
            )
        self._references = references
        self._scorer: ReferenceScorer | None = None

    def fill(self, block: dict[str, Any], requested_rewrite: Mapping[str, Any]) -> None:
        """Put `ngram_entropy` and `reference_score` into a block that has texts; `None` where there is no value."""
        texts = [text for text in block.get("text") or [] if text is not None]
        block["ngram_entropy"] = generation_entropy(texts)
        block["reference_score"] = None
        if self._references is not None:
            relation, target = requested_rewrite.get("relation_id"), requested_rewrite["target_new"].get("id")
            self._scorer = self._scorer or ReferenceScorer(self._references)
            block["reference_score"] = self._scorer.score(texts, relation, target)


class Measured(NamedTuple):
    """What is measured of one record's texts."""

    values: dict[str, float | None]
    """The two metrics, as a block holds them."""
    error: str | None
    """Why there are none."""
    seconds: float


def measure(scorer: TextScorer, texts: Sequence[tuple[list[str | None], Mapping[str, Any]]]) -> list[Measured]:
    """Measure the texts of several records, each given with its `requested_rewrite`; a fault costs its record."""
    found = []
    for mine, rewrite in texts:
        start, error = perf_counter(), None
        block: dict[str, Any] = {"text": mine}
        try:
            scorer.fill(block, rewrite)
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        values = {name: value for name, value in block.items() if name != "text"}
        found.append(Measured(values, error, perf_counter() - start))
    return found


def is_unscored(block: Mapping[str, Any]) -> bool:
    """Whether a block has texts whose metrics were deferred."""
    return any(text is not None for text in block.get("text") or []) and block.get("ngram_entropy") is None
