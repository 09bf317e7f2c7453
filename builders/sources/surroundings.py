"""What is known of entities apart from the relation: how well known they are, and what they are kinds and parts of."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from counterfact.core.errors import BadInput

from . import queries
from .batches import query_in_batches
from .pararel import relation_number
from .queries import entity_id
from .relation_queries import ENTITIES_A_QUERY, by_number
from .sparql import SparqlSource

STEPS_UP = 4
"""Steps from an object to what it is a kind or a part of that are followed."""


def count_sitelinks(entities: Iterable[str], source: SparqlSource) -> dict[str, int]:
    """Query how many sitelinks entities have; those without a count are left out.

    Raises:
        BadInput: the source has no count for any of them.
        SourceError: the source could not answer.
    """
    ordered = sorted(set(entities), key=relation_number)
    found: dict[str, int] = {}
    for answer in query_in_batches(source, ordered, ENTITIES_A_QUERY, queries.sitelinks):
        found.update({entity_id(row["entity"]): int(row["count"]) for row in answer.rows})
    if ordered and not found:
        raise BadInput(
            f"this build needs sitelinks (fewest_sitelinks, or pools in their order), but the source of facts has no "
            f"wikibase:sitelinks for any of {len(ordered)} entities: take a source that has (query.wikidata.org; a "
            "slice made with `counterfact snapshot`), or leave fewest_sitelinks at 0 and pool_order at `id`"
        )
    return found


def query_implied(objects: Iterable[str], source: SparqlSource) -> dict[str, set[str]]:
    """Query which objects follow from one another: what is born in Edinburgh is born in Scotland.

    Args:
        objects: ids of entities.
        source: the source of facts.

    Returns:
        object to all that it is a kind or a part of, over `queries.ABOVE`, in `STEPS_UP` steps.
    """
    edges: defaultdict[str, set[str]] = defaultdict(set)
    wanted = set(objects)
    for _, entity, above in query_above(wanted, source):
        edges[entity].add(above)
    reached = {}
    for object in wanted:
        found: set[str] = set()
        front = {object}
        for _ in range(STEPS_UP):
            front = {above for entity in front for above in edges[entity]} - found
            found |= front
        reached[object] = found - {object}
    return reached


def query_above(entities: Iterable[str], source: SparqlSource) -> Iterator[tuple[str, str, str]]:
    """Query, step by step, what entities are kinds and parts of, and yield the facts: property, entity, what is above.

    After `STEPS_UP` steps it ends: a village lies in a country after at most so many, and further up all is one.
    """
    seen: set[str] = set()
    front = set(entities)
    for _ in range(STEPS_UP):
        seen |= front
        rows = [
            (row["property"].removeprefix(queries.DIRECT), entity_id(row["entity"]), entity_id(row["above"]))
            for answer in query_in_batches(source, by_number(front), ENTITIES_A_QUERY, queries.above)
            for row in answer.rows
        ]
        yield from rows
        front = {above for _, _, above in rows} - seen
