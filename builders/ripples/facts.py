"""The facts around edits: what leads out of entities, what leads into them, and all their names."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..sources.batches import batches, query_in_batches, select
from ..sources.pararel import relation_number
from ..sources.queries import entity_id
from ..sources.sparql import QueryTooLarge, SparqlSource
from . import queries

ENTITIES_A_QUERY = 200


class FactsAround:
    """Facts of relations that can be asked about, as far as they were learnt.

    Args:
        source: the source of facts.
        relations: ids of the relations.
        language: of the names, else `mul`.
    """

    def __init__(self, source: SparqlSource, relations: Sequence[str], language: str = "en") -> None:
        self._source = source
        self._relations = relations
        self._language = language
        self._objects: dict[tuple[str, str], tuple[str, ...]] = {}
        self._leading: dict[str, tuple[tuple[str, str], ...]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self.counts: Counter[str] = Counter()

    def learn_objects(self, subjects: Iterable[str]) -> None:
        """Query all objects of subjects."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self._rows(subjects, lambda batch: queries.all_objects(batch, self._relations)):
            subject, relation = entity_id(row["subject"]), queries.property_id(row["relation"])
            found[subject, relation].add(entity_id(row["object"]))
        self._objects.update({key: tuple(_by_number(objects)) for key, objects in found.items()})

    def learn_leading_to(self, objects: Iterable[str]) -> None:
        """Query subjects that lead to objects; an object to which too many lead for one query is passed over."""
        found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for batch in batches(_by_number(objects), ENTITIES_A_QUERY):
            for row in self._leading_rows(batch):
                relation = queries.property_id(row["relation"])
                subjects = _by_number({entity_id(row["first"]), entity_id(row["last"])})
                found[entity_id(row["object"])].update((subject, relation) for subject in subjects)
        ordered = {object: sorted(pairs, key=lambda pair: (pair[1], pair[0])) for object, pairs in found.items()}
        self._leading.update({object: tuple(pairs) for object, pairs in ordered.items()})

    def learn_names(self, entities: Iterable[str]) -> None:
        """Query labels and other names; an entity without a label keeps none."""
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for row in self._rows(entities, lambda batch: queries.names(batch, self._language)):
            for kind in ("own", "mul", "alias"):
                if kind in row and row[kind].strip():
                    found[entity_id(row["entity"])].setdefault(row[kind].strip(), kind)
        for entity, kinds in found.items():
            names = sorted(kinds, key=lambda name: (("own", "mul", "alias").index(kinds[name]), name))
            if kinds[names[0]] != "alias":
                self._names[entity] = tuple(names)

    def objects(self, subject: str, relation: str) -> tuple[str, ...]:
        """Return all objects of a subject in a relation, by number."""
        return self._objects.get((subject, relation), ())

    def about(self, subject: str) -> Mapping[str, tuple[str, ...]]:
        """Return relation to objects of a subject, where it has some."""
        found = ((relation, self.objects(subject, relation)) for relation in self._relations)
        return {relation: objects for relation, objects in found if objects}

    def leading_to(self, object: str) -> tuple[tuple[str, str], ...]:
        """Return subjects and relations that lead to an object, at most two subjects a relation."""
        return self._leading.get(object, ())

    def names(self, *entities: str) -> list[str]:
        """Return all names of entities, each label before its other names."""
        return list(dict.fromkeys(name for entity in entities for name in self._names.get(entity, ())))

    def label(self, entity: str) -> str | None:
        """Return an entity's label, or None."""
        return next(iter(self._names.get(entity, ())), None)

    def _rows(self, entities: Iterable[str], query: Callable[[Sequence[str]], str]) -> Iterator[dict[str, str]]:
        for answer in query_in_batches(self._source, _by_number(entities), ENTITIES_A_QUERY, query):
            yield from answer.rows

    def _leading_rows(self, batch: Sequence[str]) -> Iterator[dict[str, str]]:
        try:
            yield from select(self._source, queries.leading_to(batch, self._relations), divisible=True).rows
        except QueryTooLarge:
            if len(batch) == 1:
                self.counts["subjects to which too many facts lead to list"] += 1
                return
            middle = len(batch) // 2
            yield from self._leading_rows(batch[:middle])
            yield from self._leading_rows(batch[middle:])


def _by_number(ids: Iterable[str]) -> list[str]:
    return sorted({id for id in ids if id[:1] == "Q" and id[1:].isdigit()}, key=relation_number)
