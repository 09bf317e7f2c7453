"""The cost of a live build, before it is begun: how many requests of which kind, and how long at the polite rate."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from .knowledge import ENTITIES_A_QUERY, PAIRS_A_QUERY, ROWS_A_PAGE
from .pararel import Relation
from .wikipedia import ARTICLES_A_REQUEST, ENTITIES_A_REQUEST

Basis = Literal["exact", "at most", "assumed"]


class Assumed(NamedTuple):
    """What only the services know; change it where you know better."""

    subjects_an_object: float = 3000.0
    """Subjects that have an object of ParaRel's, in the mean, of those that are listed."""
    records_a_tuple: float = 0.7
    """Share of the tuples that give a record."""
    with_article: float = 0.6
    """Share of subjects with an article."""
    seconds_a_query: float = 3.0
    """For a block of labels or entities."""
    seconds_a_page: float = 8.0
    """For a page of subjects."""
    seconds_an_api_request: float = 0.7
    """For one of MediaWiki's, or a file."""


class Cost(NamedTuple):
    """The requests of one kind."""

    kind: str
    requests: int
    basis: Basis
    """Whether ParaRel alone decides the number, bounds it, or an assumption enters."""
    hours: float
    """With the pause after each."""


def plan_build(
    relations: Sequence[Relation], texts: int, pause: float, files: int = 0, assumed: Assumed | None = None
) -> list[Cost]:
    """Return the requests of a build from an endpoint and Wikipedia, kind by kind, without any failure.

    Args:
        relations: those whose facts are asked for.
        texts: reference texts an object; 0 for none.
        pause: seconds between an answer and the next request.
        files: files of ParaRel's that are fetched.
        assumed: what is not known before.

    >>> plan_build([], 25, 1.3, files=900)[0]
    Cost(kind='files of ParaRel', requests=900, basis='exact', hours=0.5)
    """
    known = assumed or Assumed()
    pairs = subjects = objects = pages = 0
    for relation in relations:
        pairs += math.ceil(len(_pairs(relation)) / PAIRS_A_QUERY)
        subjects += math.ceil(_subjects(relation) / ENTITIES_A_QUERY)
        distinct = _objects(relation)
        objects += math.ceil(distinct / ENTITIES_A_QUERY)
        pages += math.ceil(distinct * known.subjects_an_object / ROWS_A_PAGE)
    read = texts * sum(_new_objects(relation, known.records_a_tuple) for relation in relations)
    kinds: list[tuple[str, float, Basis, float]] = [
        ("files of ParaRel", files, "exact", known.seconds_an_api_request),
        ("which entities the labels mean", pairs, "exact", known.seconds_a_query),
        ("all objects of the subjects", subjects, "at most", known.seconds_a_query),
        ("how many subjects an object has", objects, "at most", known.seconds_a_query),
        ("pages of subjects", pages, "assumed", known.seconds_a_page),
        ("titles of articles", read / known.with_article / ENTITIES_A_REQUEST, "assumed", known.seconds_an_api_request),
        ("openings of articles", read / ARTICLES_A_REQUEST, "assumed", known.seconds_an_api_request),
    ]
    return [_cost(kind, number, basis, pause + seconds) for kind, number, basis, seconds in kinds]


def one_by_one(
    relations: Sequence[Relation], texts: int, pause: float, files: int = 0, assumed: Assumed | None = None
) -> list[Cost]:
    """Return what the same build costs when everything is asked by itself: a tuple, a subject, an object, an article.

    Args:
        relations: see `plan_build`.
        texts: see there.
        pause: see there.
        files: see there.
        assumed: see there.
    """
    known = assumed or Assumed()
    objects = sum(map(_objects, relations))
    queries = sum(len(_pairs(one)) + _subjects(one) for one in relations)
    pages = objects * max(1, math.ceil(known.subjects_an_object / ROWS_A_PAGE))
    read = texts * objects * (1 + 1 / known.with_article)
    return [
        _cost("files of ParaRel", files, "exact", pause + known.seconds_an_api_request),
        _cost("queries about a tuple, a subject", queries, "at most", pause + known.seconds_a_query),
        _cost("pages of subjects", pages, "assumed", pause + known.seconds_a_page),
        _cost("titles and openings of articles", read, "assumed", pause + known.seconds_an_api_request),
    ]


def _cost(kind: str, number: float, basis: Basis, seconds: float) -> Cost:
    return Cost(kind, math.ceil(number), basis, math.ceil(number) * seconds / 3600)


def _pairs(relation: Relation) -> set[tuple[str, str]]:
    return {(fact.subject, fact.object) for fact in relation.tuples}


def _subjects(relation: Relation) -> int:
    return len({fact.subject for fact in relation.tuples})


def _objects(relation: Relation) -> int:
    return len({fact.object for fact in relation.tuples})


def _new_objects(relation: Relation, records_a_tuple: float) -> float:
    """Return how many objects become the new one of some record, in the mean: each is drawn by its share of tuples."""
    tuples = len(relation.tuples)
    counted = Counter(fact.object for fact in relation.tuples).values()
    return sum(1.0 - math.pow(1.0 - count / tuples, records_a_tuple * tuples) for count in counted)
