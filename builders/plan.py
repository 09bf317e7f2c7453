"""The cost of a live build, before it is begun: how many requests of which kind, and how long at the polite rate."""

from collections.abc import Sequence
from math import ceil
from typing import Literal, NamedTuple

from builders.knowledge import ENTITIES_A_QUERY, PAIRS_A_QUERY, ROWS_A_PAGE
from builders.pararel import Relation
from builders.wikipedia import ARTICLES_A_REQUEST, ENTITIES_A_REQUEST


class Assumed(NamedTuple):
    """What only the services know; change it where you know better."""

    subjects_an_object: float = 3000.0
    """Subjects that have an object of ParaRel's, in the mean, of those that are listed."""
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
    basis: Literal["exact", "at most", "assumed"]
    """Whether ParaRel alone decides the number, bounds it, or an assumption enters."""
    hours: float
    """With the pause after each."""


def plan_build(
    relations: Sequence[Relation], texts: int, pause: float, files: int = 0, assumed: Assumed | None = None
) -> list[Cost]:
    """Return the requests of a build from an endpoint and Wikipedia, kind by kind, without any failure.

    Args:
        relations: what is built.
        texts: reference texts an object; 0 for none.
        pause: seconds between an answer and the next request.
        files: files of ParaRel's that are fetched.
        assumed: what is not known before.

    >>> plan_build([], 25, 1.3, files=900)[0]
    Cost(kind='files of ParaRel', requests=900, basis='exact', hours=0.5)
    """
    known = assumed or Assumed()
    pairs = subjects = objects = pages = wanted = 0
    for relation in relations:
        pairs += ceil(len({(fact.subject, fact.object) for fact in relation.tuples}) / PAIRS_A_QUERY)
        subjects += ceil(len({fact.subject for fact in relation.tuples}) / ENTITIES_A_QUERY)
        distinct = len({fact.object for fact in relation.tuples})
        objects += ceil(distinct / ENTITIES_A_QUERY)
        pages += ceil(distinct * known.subjects_an_object / ROWS_A_PAGE)
        wanted += distinct if relation.templates else 0
    query, page, api = known.seconds_a_query, known.seconds_a_page, known.seconds_an_api_request
    kinds: list[tuple[str, int, Literal["exact", "at most", "assumed"], float]] = [
        ("files of ParaRel", files, "exact", api),
        ("which entities the labels mean", pairs, "exact", query),
        ("all objects of the subjects", subjects, "at most", query),
        ("how many subjects an object has", objects, "at most", query),
        ("pages of subjects", pages, "assumed", page),
        ("titles of articles", ceil(wanted * texts / known.with_article / ENTITIES_A_REQUEST), "assumed", api),
        ("openings of articles", ceil(wanted * texts / ARTICLES_A_REQUEST), "at most", api),
    ]
    return [Cost(kind, number, basis, number * (pause + seconds) / 3600) for kind, number, basis, seconds in kinds]
