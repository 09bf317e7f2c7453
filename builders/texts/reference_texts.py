"""Reference texts of a new object: articles about a sample of the subjects that truly have it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from counterfact.core.seeds import derive_seed

from ..choosing.sampling import shuffled
from ..sources.articles import Article, ArticleSource
from ..sources.batches import blocks
from ..sources.knowledge import Holder
from ..sources.sparql import SparqlSource

_OBJECTS_AT_ONCE = 50
_SPARE = 4


@dataclass
class _Wanted:
    """The texts of one object, and the subjects that have not been looked at."""

    relation: str
    object: str
    left: list[str]
    texts: list[Article] = field(default_factory=list)


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
    entries: list[dict[str, Any]] = []
    done = 0
    for block in blocks(wanted, _OBJECTS_AT_ONCE):
        objects = [_Wanted(relation, object, list(sample)) for relation, object, sample in block]
        _fill(objects, count, facts, articles)
        for one in objects:
            if one.texts:
                samples = [{"name": article.name, "text": article.text} for article in one.texts]
                entries.append({"relation_id": one.relation, "target_id": one.object, "samples": samples})
        done += len(block)
        progress(done)
    return entries


def _fill(objects: Sequence[_Wanted], count: int, facts: SparqlSource, articles: ArticleSource) -> None:
    """Look for the texts that are missing, in rounds, so that no article is asked for that is not used."""
    while short := [one for one in objects if len(one.texts) < count and one.left]:
        taken = []
        for one in short:
            missing = count - len(one.texts)
            taken.append((one, one.left[:missing]))
            one.left = one.left[missing:]
        iris = articles.about(list(dict.fromkeys(subject for _, subjects in taken for subject in subjects)), facts)
        found = articles.read(list(dict.fromkeys(iris.values())))
        for one, subjects in taken:
            one.texts += [found[iris[subject]] for subject in subjects if iris.get(subject) in found]
