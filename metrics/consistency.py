"""Consistency of generated text: its likeness to texts about things of which the new object is true.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, "reference score".
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from counterfact.contracts.metrics import TextMeasure, text_metric
from counterfact.core.records import ReferenceTexts


def fit_vectoriser(documents: Iterable[str]) -> TfidfVectorizer | None:
    """Fit TF-IDF weights, one document a text; `None` where no document holds a word."""
    vectoriser = TfidfVectorizer()
    try:
        vectoriser.fit(documents)
    except ValueError as error:
        if "empty vocabulary" in str(error):
            return None
        raise
    return vectoriser


def join_vector(vectoriser: TfidfVectorizer, texts: Sequence[str]) -> Any:
    """Return the vector of texts joined by a space: sparse, shape (1, terms), of length 1, or 0 without known words."""
    return vectoriser.transform([" ".join(texts)])


def cosine(one: Any, other: Any) -> float:
    """Return the cosine of two vectors of `join_vector`.

    >>> vectoriser = fit_vectoriser(["red apple", "green pear"])
    >>> fruit = [join_vector(vectoriser, [text]) for text in ("red apple", "green pear", "red pear")]
    >>> cosine(fruit[0], fruit[1]), round(cosine(fruit[0], fruit[2]), 9)
    (0.0, 0.5)
    """
    return float(one.multiply(other).sum())


class ReferenceScorer:
    """Reference scores of one data set: fitted once, with one vector for each (relation, object), made when needed."""

    def __init__(self, references: ReferenceTexts) -> None:
        self._references = references
        self._vectoriser = fit_vectoriser(references.documents())
        self._vectors: dict[tuple[str, str], Any] = {}

    def score(self, texts: Sequence[str], relation_id: str | None, target_id: str | None) -> float | None:
        """Return the cosine of the generated texts, joined, and the reference texts, joined.

        Args:
            texts: all generated texts of one record.
            relation_id: of the record's relation.
            target_id: of the new object.

        Returns:
            A fraction from 0 to 1, or `None` where there are no reference texts, or no generated ones.
        """
        vector = self._reference(relation_id, target_id)
        if vector is None or self._vectoriser is None or not texts:
            return None
        return cosine(join_vector(self._vectoriser, texts), vector)

    def _reference(self, relation_id: str | None, target_id: str | None) -> Any:
        snippets = self._references.get(relation_id, target_id)
        if not snippets or self._vectoriser is None or relation_id is None or target_id is None:
            return None
        key = (relation_id, target_id)
        if key not in self._vectors:
            self._vectors[key] = join_vector(self._vectoriser, [snippet.text for snippet in snippets])
        return self._vectors[key]


@text_metric(
    "RS",
    "reference_score",
    "cosine x 100",
    "higher",
    "arXiv:2202.05262",
    "counterfact",
    needs=("sklearn",),
    missing="no reference text for the relation and the new object",
    interval="student",
)
def consistency(references: ReferenceTexts | None) -> TextMeasure:
    """Reference score (consistency): how near the generated texts are to texts about the new object's own subjects.

    The cosine of two vectors of scikit-learn's TfidfVectorizer with its defaults, fitted on all reference texts.

    >>> consistency(None)(["any text"], {"target_new": {"str": "Rome"}}) is None
    True
    """
    if references is None:
        return lambda _texts, _rewrite: None
    scorer = cache(lambda: ReferenceScorer(references))  # fitted when the first text comes
    return lambda texts, rewrite: scorer().score(texts, rewrite.get("relation_id"), rewrite["target_new"].get("id"))
