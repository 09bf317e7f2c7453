"""Queries about one relation in batches, and what is counted of their answers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from . import queries
from .batches import query_in_batches
from .pararel import Relation, relation_number
from .queries import entity_id
from .sparql import SparqlSource

T = TypeVar("T")
ENTITIES_A_QUERY = 500


class RelationQueries:
    """The queries of one relation.

    Attributes:
        relation: what is asked about.
        source: who is asked.
        language: of labels.
        counts: what was met on the way, by its name.
        merged: pairs of a subject and an object that is another entity by now.
    """

    def __init__(self, relation: Relation, source: SparqlSource, language: str) -> None:
        self.relation, self.source, self.language = relation, source, language
        self.counts: Counter[str] = Counter(tuples=len(relation.tuples))
        self.merged: set[tuple[str, str]] = set()

    def rows(
        self,
        values: Sequence[T],
        size: int,
        query: Callable[[str, Sequence[T]], str],
        too_large: Callable[[T], object] | None = None,
    ) -> Iterator[dict[str, str]]:
        """Yield the rows of a query that is asked about values in blocks.

        Args:
            values: what is asked about.
            size: the most values in a block.
            query: relation and block to the query's text.
            too_large: told of each value that is too much by itself; without it such a value ends all.
        """
        relation = self.relation.id
        for answer in query_in_batches(self.source, values, size, lambda batch: query(relation, batch), too_large):
            self.counts["rows with an unknown value"] += answer.unknown
            yield from answer.rows

    def objects(self, subjects: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return all objects of each subject, by number."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for row in self.rows(subjects, ENTITIES_A_QUERY, queries.objects):
            found[entity_id(row["subject"])].add(entity_id(row.get("target", row["object"])))
            if "target" in row:
                self.merged.add((row["subject"], row["object"]))
        return {subject: tuple(by_number(found[subject])) for subject in subjects}


def by_number(ids: Iterable[str]) -> list[str]:
    """Sort the ids of entities by number; what is no entity is left out."""
    # WikiData's statements may also lead to lexemes and properties; entities alone can be subjects and objects here.
    return sorted((id for id in ids if id[:1] == "Q" and id[1:].isdigit()), key=relation_number)
