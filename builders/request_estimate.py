"""How many requests a live build sends, of which kind, and how long they take, before it is started."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from .choosing.selection import relations_to_query
from .choosing.settings import BuildSettings
from .sources.knowledge import ROWS_A_PAGE
from .sources.options import SourceOptions
from .sources.pararel import Relation, language_folder, load_relations
from .sources.pararel_download import FILES
from .sources.relation_queries import ENTITIES_A_QUERY
from .sources.resolving import PAIRS_A_QUERY
from .sources.subject_kinds import CLASSES_A_QUERY, POOLS, load_subject_kinds
from .sources.surroundings import STEPS_UP
from .sources.wikipedia import ARTICLES_A_REQUEST, ENTITIES_A_REQUEST
from .texts.generation_prompts import load_generation_prompts

_FORMS = 7
"""Times that a pair is asked for in other forms: another letter case of one or both, en-gb, merged, other names."""

Basis = Literal["exact", "at most", "assumed"]


class Assumptions(NamedTuple):
    """Figures that only the services know; change them where you know better."""

    subjects_an_object: float = 3000.0
    """Mean number of subjects that have an object of ParaRel's, of the objects whose subjects are listed."""
    records_a_tuple: float = 0.8
    """Share of the tuples that give a record."""
    not_found: float = 0.2
    """Share of the tuples whose labels mean no fact as they are written, so that other forms are looked for."""
    above_an_object: float = 5.0
    """Mean number of further entities that an object is a kind or a part of, shared ones counted once."""
    classes_a_subject: float = 0.05
    """Distinct classes and occupations of the subjects that are asked what they are, for each of these."""
    with_article: float = 0.6
    """Share of subjects with an article."""
    seconds_a_query: float = 3.0
    """Seconds for a batch of labels or entities."""
    seconds_a_page: float = 8.0
    """Seconds for a page of subjects."""
    seconds_an_api_request: float = 0.7
    """Seconds for a request to MediaWiki, or for a file."""


class RequestCost(NamedTuple):
    """Requests of one kind."""

    kind: str
    requests: int
    basis: Basis
    """Whether ParaRel alone decides the number, bounds it, or an assumption enters."""
    hours: float
    """Hours that they take, with the pause after each."""


class Estimate(NamedTuple):
    """Requests of a build, when nothing fails."""

    relations: int
    """Number of relations whose facts are queried."""
    costs: list[RequestCost]
    """Requests of each kind."""


def estimate_build(sources: SourceOptions, settings: BuildSettings) -> Estimate:
    """Estimate the requests of a build; nothing is opened but ParaRel, templates and prompts.

    Raises:
        BadInput: one of these is missing or malformed.
    """
    relations = queried_relations(sources.topped_up() if settings.own_templates else sources, settings)
    files = FILES if sources.fetches_pararel else 0
    pool = settings.pool_by_id if settings.subject_kinds == "check" else None
    costs = estimate_requests(relations, settings.reference_texts, sources.pause, files, pool=pool)
    return Estimate(len(relations), costs)


def queried_relations(sources: SourceOptions, settings: BuildSettings) -> list[Relation]:
    """Open ParaRel, templates and prompts, and return the relations whose facts a build queries."""
    language = settings.language
    folder = language_folder(sources.open_pararel(), language)
    templates = sources.more_templates and language_folder(sources.more_templates, language)
    prompts = load_generation_prompts(language_folder(sources.generation, language))
    fewest = 1 + settings.paraphrase_prompts
    relations = load_relations(folder, templates, language, settings.relations, fewest, settings.cutting)
    return relations_to_query(relations, prompts, settings)


def estimate_requests(
    relations: Sequence[Relation],
    texts: int,
    pause: float,
    files: int = 0,
    assumed: Assumptions | None = None,
    *,
    pool: int | None = 20,
) -> list[RequestCost]:
    """Return the requests of a build from an endpoint and Wikipedia, kind by kind, when nothing fails.

    Args:
        relations: relations whose facts are queried.
        texts: reference texts an object; 0 for none.
        pause: seconds between a response and the next request.
        files: files of ParaRel that are fetched.
        assumed: figures that only the services know.
        pool: size of pools, by which it is asked what subjects are; 0 for all, None where that is not asked.

    >>> estimate_requests([], 25, 1.3, files=900)[0]
    RequestCost(kind='files of ParaRel', requests=900, basis='exact', hours=0.5)
    """
    known = assumed or Assumptions()
    pairs = [len({(fact.subject, fact.object) for fact in relation.tuples}) for relation in relations]
    subjects = [len({fact.subject for fact in relation.tuples}) for relation in relations]
    objects = [len({fact.object for fact in relation.tuples}) for relation in relations]
    rows = [count * known.subjects_an_object for count in objects]
    read = texts * sum(_new_objects(relation, known.records_a_tuple) for relation in relations)
    everything = len({fact.object for relation in relations for fact in relation.tuples})
    above = STEPS_UP + everything * (1 + known.above_an_object) / ENTITIES_A_QUERY if everything else 0.0
    kinds_asked = 0 if pool is None else _about_kinds(relations, pool, known)
    titles = read / known.with_article / ENTITIES_A_REQUEST
    kinds: list[tuple[str, float, Basis, float]] = [
        ("files of ParaRel", files, "exact", known.seconds_an_api_request),
        ("which entities the labels mean", _queries(pairs, PAIRS_A_QUERY), "exact", known.seconds_a_query),
        (
            "the same, in other forms",
            _queries([known.not_found * n for n in pairs], PAIRS_A_QUERY / _FORMS),
            "assumed",
            known.seconds_a_query,
        ),
        ("what objects are kinds and parts of", above, "assumed", known.seconds_a_query),
        ("what subjects are", kinds_asked, "assumed", known.seconds_a_query),
        ("all objects of the subjects", _queries(subjects, ENTITIES_A_QUERY), "at most", known.seconds_a_query),
        ("how many subjects an object has", _queries(objects, ENTITIES_A_QUERY), "at most", known.seconds_a_query),
        ("pages of subjects", _queries(rows, ROWS_A_PAGE), "assumed", known.seconds_a_page),
        ("titles of articles", titles, "assumed", known.seconds_an_api_request),
        ("openings of articles", read / ARTICLES_A_REQUEST, "assumed", known.seconds_an_api_request),
    ]
    return [
        RequestCost(kind, math.ceil(number), basis, math.ceil(number) * (pause + seconds) / 3600)
        for kind, number, basis, seconds in kinds
    ]


def _queries(sizes: Sequence[float], size: float) -> int:
    """Return the number of queries of `size` values each, when every relation has queries of its own."""
    return sum(math.ceil(count / size) for count in sizes)


def _about_kinds(relations: Sequence[Relation], pool: int, known: Assumptions) -> int:
    """Return the number of queries about what subjects are, what the people among them do, and the classes of both."""
    asked = busy = 0.0
    for relation, rule in load_subject_kinds().items():
        for tuples in (one.tuples for one in relations if one.id == relation):
            held = min(POOLS * pool or math.inf, known.subjects_an_object)
            subjects = len({fact.subject for fact in tuples}) + held * len({fact.object for fact in tuples})
            asked += subjects
            busy += subjects if rule.occupations else 0
    classes = asked * known.classes_a_subject
    return _queries([asked, busy], ENTITIES_A_QUERY) + _queries([classes], CLASSES_A_QUERY)


def _new_objects(relation: Relation, records_a_tuple: float) -> float:
    """Return how many objects become the new one of some record, in the mean: each is drawn by its share of tuples."""
    tuples = len(relation.tuples)
    counted = Counter(fact.object for fact in relation.tuples).values()
    return sum(1.0 - math.pow(1.0 - count / tuples, records_a_tuple * tuples) for count in counted)
