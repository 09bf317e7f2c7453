"""Reference texts of a new object: articles about a sample of the subjects that truly have it."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from builders import queries
from builders.articles import ArticleSource
from builders.knowledge import Holder, blocks
from builders.queries import entity_id
from builders.sampling import shuffled
from builders.wikidata import SparqlSource
from core.seeds import derive_seed

_OBJECTS_AT_ONCE = 50
_SPARE = 4


def sample_subjects(held: Sequence[Holder], relation: str, object: str, count: int, seed: int) -> list[str]:
    """Return ids of subjects in drawn order, `_SPARE` times as many as wanted, since not all have an article."""
    random = Random(derive_seed(seed, "reference texts", relation, object))
    drawn = shuffled(held, random)
    return [holder.id for holder, _ in zip(drawn, range(_SPARE * count), strict=False)]


def reference_entries(
    wanted: Iterable[tuple[str, str, Sequence[str]]],
    count: int,
    facts: SparqlSource,
    articles: ArticleSource,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Return the lines of `reference_texts.jsonl`, for the objects that have an article at all.

    Args:
        wanted: relation, object, and subjects in the order in which they are taken.
        count: articles an object, at most.
        facts: knows which articles are about which subject.
        articles: holds them.
        progress: is told how many objects are done.
    """
    entries = []
    done = 0
    for block in blocks(wanted, _OBJECTS_AT_ONCE):
        subjects = list(dict.fromkeys(subject for _, _, sample in block for subject in sample))
        iris = _articles_about(subjects, facts, articles.site)
        found = articles.read(list(iris.values()))
        for relation, object, sample in block:
            texts = [found[iris[subject]] for subject in sample if iris.get(subject) in found][:count]
            if texts:
                samples = [{"name": article.name, "text": article.text} for article in texts]
                entries.append({"relation_id": relation, "target_id": object, "samples": samples})
        done += len(block)
        progress(done)
    return entries


def _articles_about(subjects: Sequence[str], facts: SparqlSource, site: str) -> dict[str, str]:
    """Return subject to the IRI of its article, the first in order where it has several."""
    iris: dict[str, str] = {}
    for block in blocks(subjects, 500):
        for row in facts.select(queries.articles(block, site)).rows:
            iris.setdefault(entity_id(row["entity"]), row["article"])
    return iris
