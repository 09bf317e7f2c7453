"""How well known entities are, by their sitelinks: the articles about them in Wikipedias and sister projects."""

from collections.abc import Mapping

from counterfact.core.errors import BadInput

from . import queries
from .batches import ask_in_blocks
from .knowledge import ENTITIES_A_QUERY, Knowledge
from .pararel import relation_number
from .queries import entity_id
from .sparql import SparqlSource


def sitelinks_of_all(known: Mapping[str, Knowledge], source: SparqlSource) -> dict[str, int]:
    """Ask how many sitelinks the subjects of all tuples have; those without a count are left out.

    Raises:
        BadInput: the source has no count for any of them.
        SourceError: the source could not answer.
    """
    subjects = {subject for knowledge in known.values() for subject, _ in knowledge.resolved.values()}
    ordered = sorted(subjects, key=relation_number)
    found: dict[str, int] = {}
    for answer in ask_in_blocks(source, ordered, ENTITIES_A_QUERY, queries.sitelinks):
        found.update({entity_id(row["entity"]): int(row["count"]) for row in answer.rows})
    if ordered and not found:
        raise BadInput(
            f"fewest_sitelinks asks how well known subjects are, but the source of facts has no wikibase:sitelinks for "
            f"any of {len(ordered)} of them: take a source that has (query.wikidata.org; a slice made with "
            "`counterfact snapshot`), or leave fewest_sitelinks at 0"
        )
    return found
