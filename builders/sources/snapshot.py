"""Takes from a source of facts the slice that a build needs, so that the build can be repeated from the slice alone.

The slice holds what `knowledge` asked for: the facts of the tuples' subjects, all subjects of their objects, and the
labels of both; with a site, the articles about them; with `sitelinks`, how well known the subjects are.
"""

from collections.abc import Callable, Iterable, Sequence

from . import queries
from .batches import ask_in_blocks
from .knowledge import ENTITIES_A_QUERY, Knowledge, gather
from .ntriples import about_line, fact_line, label_line, sitelinks_line
from .pararel import Relation, relation_number
from .popularity import sitelinks_of_all
from .queries import entity_id
from .sparql import SparqlSource


def take_snapshot(
    relations: Sequence[Relation],
    source: SparqlSource,
    language: str = "en",
    site: str | None = None,
    *,
    sitelinks: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> set[str]:
    """Ask a source for everything a build of these relations needs.

    Args:
        relations: their tuples say what is needed.
        source: is asked.
        language: of the labels.
        site: what the IRIs of articles start with; None for no articles.
        sitelinks: whether sitelinks are asked for.
        progress: is told how many relations are done.

    Returns:
        the statements, as lines of N-Triples. A build from them has the same records and the same reference texts as
        one from the source.

    Raises:
        BadInput: sitelinks are wanted and the source has none.
        SourceError: the source could not answer.
    """
    lines: set[str] = set()
    known: dict[str, Knowledge] = {}
    for done, relation in enumerate(relations, 1):
        known[relation.id] = gather(relation, source, language)
        lines.update(_statements(relation.id, known[relation.id], language))
        if progress is not None:
            progress("facts", done, len(relations))
    if site is not None:
        lines.update(_articles(known.values(), source, site))
    if sitelinks:
        lines.update(sitelinks_line(*counted) for counted in sitelinks_of_all(known, source).items())
    return lines


def _statements(relation: str, known: Knowledge, language: str) -> Iterable[str]:
    for subject, objects in known.objects.items():
        yield from (fact_line(subject, relation, object) for object in objects)
    for object, held in known.holders.items():
        for holder in held:
            yield fact_line(holder.id, relation, object)
            yield label_line(holder.id, holder.label, language)
    for labels, ids in known.resolved.items():
        yield from (label_line(id, label, language) for id, label in zip(ids, labels, strict=True))


def _articles(known: Iterable[Knowledge], source: SparqlSource, site: str) -> Iterable[str]:
    entities = {holder.id for knowledge in known for held in knowledge.holders.values() for holder in held}
    ordered = sorted(entities, key=relation_number)
    for answer in ask_in_blocks(source, ordered, ENTITIES_A_QUERY, lambda block: queries.articles(block, site)):
        yield from (about_line(row["article"], entity_id(row["entity"])) for row in answer.rows)
