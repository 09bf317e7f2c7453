"""Reference texts of a new object: articles about a sample of the subjects that truly have it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sources.articles import ArticleSource, Passage
from ..sources.batches import batches
from ..sources.sparql import SparqlSource

_OBJECTS_AT_ONCE = 50


@dataclass
class _Collected:
    """Texts of one object so far, and the subjects whose articles have not been read."""

    relation: str
    object: str
    left: list[str]
    texts: list[Passage] = field(default_factory=list)


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
        progress: function that is told how many objects are done.
    """
    entries: list[dict[str, Any]] = []
    done = 0
    for batch in batches(wanted, _OBJECTS_AT_ONCE):
        objects = [_Collected(relation, object, list(sample)) for relation, object, sample in batch]
        _fill(objects, count, facts, articles)
        for one in objects:
            if one.texts:
                samples = [{"name": article.name, "text": article.text, **article.origin} for article in one.texts]
                entries.append({"relation_id": one.relation, "target_id": one.object, "samples": samples})
        done += len(batch)
        progress(done)
    return entries


def _fill(objects: Sequence[_Collected], count: int, facts: SparqlSource, articles: ArticleSource) -> None:
    """Collect the texts that are missing, in rounds, so that every article that is read is used."""
    while short := [one for one in objects if len(one.texts) < count and one.left]:
        taken = []
        for one in short:
            missing = count - len(one.texts)
            taken.append((one, one.left[:missing]))
            one.left = one.left[missing:]
        iris = articles.about(list(dict.fromkeys(subject for _, subjects in taken for subject in subjects)), facts)
        found = articles.read(list(dict.fromkeys(iris.values())))
        for one, subjects in taken:
            for subject in subjects:
                article = found.get(iris.get(subject, ""))
                # Two subjects may share an article, where one was merged or redirects.
                if article is not None and article not in one.texts:
                    one.texts.append(article)
