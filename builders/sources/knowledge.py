"""The facts of one relation in a source: everything that the choices of a build need, and nothing else.

The queries go in this order, each in VALUES blocks: which entities the labels of the tuples mean; all objects of
those subjects; how many subjects each of those objects has; and who they are, in pages made to hold whole objects. An
object with very many subjects (a country, of places in it) is not listed: no endpoint counts or sorts millions of rows
in the time it allows itself. Of its subjects as many are asked for as a pool needs, in whatever order the source has
them, with all their objects; and those met otherwise are known too: the tuples' own, and those of other objects.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from . import queries
from .batches import require_complete, select
from .labels import clean_label
from .pararel import Relation
from .queries import Key, entity_id
from .relation_queries import ENTITIES_A_QUERY, RelationQueries, by_number
from .resolving import Resolver
from .sparql import QueryTooLarge, SourceError, SparqlSource

ROWS_A_PAGE = 20_000
MANY_SUBJECTS = 100_000
"""Largest number of subjects of an object that are listed."""
SAMPLE = 1000
"""Number of subjects that are asked for of an object that has more."""
_SHORTEST_PAGE = 100
"""Rows of a page that is not halved again where its object cannot be listed at all."""


class LabelledEntity(NamedTuple):
    """An entity of WikiData with its label."""

    id: str
    label: str


@dataclass(frozen=True)
class Knowledge:
    """Facts of one relation."""

    resolved: dict[tuple[str, str], tuple[str, str]]
    """Labels of subject and object to their ids."""
    objects: dict[str, tuple[str, ...]]
    """Subject to all its objects."""
    holders: dict[str, tuple[LabelledEntity, ...]]
    """Object to its subjects that have a label, by number: all, but for objects with very many."""
    counts: dict[str, int]
    """Counts of tuples, those resolved (and by which other form of a label) and those ambiguous, of merged ids, rows
    with unknown values, holders without a label and those whose label was cleaned or names nothing."""
    other_names: frozenset[tuple[str, str]] = frozenset()
    """Those of the resolved labels by which not both of the entities are called."""


def query_knowledge(relation: Relation, source: SparqlSource, language: str = "en") -> Knowledge:
    """Query everything about the tuples of one relation.

    A pair of labels that fits several facts is resolved to the one with the lowest ids, and counted as ambiguous. A
    label that means different entities in different tuples was resolved by the facts, and is counted as shared.

    Raises:
        SourceError: the source could not answer, or contradicts itself.
    """
    return _Gathering(relation, source, language).knowledge()


class _Gathering:
    def __init__(self, relation: Relation, source: SparqlSource, language: str) -> None:
        self._asked = RelationQueries(relation, source, language)
        self._counts = self._asked.counts
        self._wanted: frozenset[str] = frozenset()
        """Objects of the tuples."""
        self._many: list[str] = []
        """Objects whose subjects cannot be listed."""
        self._cleaned: set[str] = set()
        self._nameless: set[str] = set()
        """Subjects whose label names nothing."""

    def knowledge(self) -> Knowledge:
        relation, resolver = self._asked.relation, Resolver(self._asked)
        resolved, other_names = resolver.resolve(), resolver.other_names
        self._counts["resolved"] = sum((fact.subject, fact.object) in resolved for fact in relation.tuples)
        self._counts["subject labels shared"] = _shared((labels[0], ids[0]) for labels, ids in resolved.items())
        self._counts["object labels shared"] = _shared((labels[1], ids[1]) for labels, ids in resolved.items())
        subjects = by_number({subject for subject, _ in resolved.values()})
        objects = by_number({object for _, object in resolved.values()})
        self._wanted = frozenset(objects)
        known = self._asked.objects(subjects)
        require_complete(sum(map(bool, known.values())), len(known), f"subjects of {relation.id} with an object")
        sizes = self._sizes(objects)
        require_complete(sum(sizes.values()), len(objects), f"objects of {relation.id} with a subject")
        self._many = [object for object in objects if sizes[object] > MANY_SUBJECTS]
        labels = self._all_holders(objects, sizes)
        for object in self._many:
            self._sample(object, labels)
        for names, (subject, _) in sorted(resolved.items()):
            for object in self._many:
                if object in known[subject]:
                    _keep_label(labels[object], subject, None if names in other_names else names[0])
        self._counts["objects with too many subjects to list"] = len(self._many)
        self._counts["holders with a label cleaned"] = len(self._cleaned)
        self._counts["holders with a label that names nothing"] = len(self._nameless)
        self._counts["facts with a merged object"] = len(self._asked.merged)
        held = self._labelled(objects, labels)
        return Knowledge(resolved, known, held, dict(sorted(self._counts.items())), frozenset(other_names))

    def _sizes(self, objects: Sequence[str]) -> dict[str, int]:
        very_many: set[str] = set()
        rows = self._asked.rows(objects, ENTITIES_A_QUERY, queries.sizes, very_many.add)
        found = {entity_id(row["object"]): int(row["subjects"]) for row in rows}
        return {object: MANY_SUBJECTS + 1 if object in very_many else found.get(object, 0) for object in objects}

    def _all_holders(self, objects: Sequence[str], sizes: Mapping[str, int]) -> defaultdict[str, dict[str, str | None]]:
        while True:
            known = len(self._many)
            labels = self._holders([object for object in objects if object not in self._many], sizes)
            if len(self._many) == known:
                return labels
            # Of an object that turned out to have very many, the subjects of all others must be asked.

    def _holders(self, objects: Sequence[str], sizes: Mapping[str, int]) -> defaultdict[str, dict[str, str | None]]:
        labels: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        for batch in _fitting(objects, sizes):
            for row in self._pages(batch, sizes):
                subject, label = entity_id(row["subject"]), self._name(row)
                for object in {row["object"], row.get("more", row["object"])}:
                    _keep_label(labels[entity_id(object)], subject, label)
        return labels

    def _pages(self, batch: Sequence[str], sizes: Mapping[str, int]) -> Iterator[dict[str, str]]:
        """Yield the rows of a batch, page by page; where a page is too much, of half the batch, or half the page."""
        after: Key | None = None
        size, seen, expected = ROWS_A_PAGE, 0, sum(sizes[object] for object in batch)
        others = tuple(self._many)
        while True:
            query = queries.holders(self._asked.relation.id, batch, after, size, others, self._asked.language)
            try:
                answer = select(self._asked.source, query, divisible=size > 1 or (after is None and len(batch) > 1))
            except QueryTooLarge:
                if after is None and len(batch) > 1:
                    middle = len(batch) // 2
                    yield from self._pages(batch[:middle], sizes)
                    yield from self._pages(batch[middle:], sizes)
                    return
                if after is None and size <= min(_SHORTEST_PAGE, ROWS_A_PAGE // 4):
                    # Sorting is what takes too long, however few of the rows are wanted.
                    self._many += batch
                    return
                if size == 1:
                    raise
                size = (size + 1) // 2
                continue
            self._counts["rows with an unknown value"] += answer.unknown
            yield from answer.rows
            pairs = len({(row["object"], row["subject"]) for row in answer.rows}) + answer.unknown
            seen += pairs
            # Some endpoints cut answers at a limit of their own: a short page ends a batch only when all were seen.
            if not pairs or (pairs < size and seen >= expected):
                return require_complete(seen, expected, f"subjects of {self._asked.relation.id}")
            if not answer.rows:
                raise SourceError(
                    f"a whole page of subjects of {self._asked.relation.id} is unknown; look at the source's data"
                )
            after = Key(answer.rows[-1]["object"], answer.rows[-1]["subject"])

    def _sample(self, object: str, labels: defaultdict[str, dict[str, str | None]]) -> None:
        """Ask for some subjects of an object that has very many, and for all objects of these."""
        query = queries.some_holders(self._asked.relation.id, object, SAMPLE, self._asked.language)
        answer = select(self._asked.source, query, divisible=False)
        self._counts["rows with an unknown value"] += answer.unknown
        names = {entity_id(row["subject"]): self._name(row) for row in answer.rows}
        for subject, objects in self._asked.objects(by_number(names)).items():
            for held in objects:
                if held in self._wanted:
                    _keep_label(labels[held], subject, names[subject])

    def _name(self, row: Mapping[str, str]) -> str | None:
        """Return the label of a row as a name, and count what is none."""
        label = row.get("own", row.get("mul"))
        name = None if label is None else clean_label(label)
        if name != label:
            (self._nameless if name is None else self._cleaned).add(row["subject"])
        return name

    def _labelled(
        self, objects: Sequence[str], labels: Mapping[str, Mapping[str, str | None]]
    ) -> dict[str, tuple[LabelledEntity, ...]]:
        found = {}
        for object in objects:
            held = labels.get(object, {})
            labelled = ((id, held[id]) for id in by_number(held))
            found[object] = tuple(LabelledEntity(id, label) for id, label in labelled if label is not None)
            self._counts["holders"] += len(held)
            self._counts["holders without a label"] += len(held) - len(found[object])
        return found


def _fitting(objects: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield batches of objects whose subjects fit on one page, where they can."""
    batch: list[str] = []
    for object in objects:
        rows = sum(sizes[other] for other in batch)
        if batch and (rows + sizes[object] > ROWS_A_PAGE or len(batch) == ENTITIES_A_QUERY):
            yield batch
            batch = []
        batch.append(object)
    if batch:
        yield batch


def _keep_label(held: dict[str, str | None], subject: str, label: str | None) -> None:
    held[subject] = min((text for text in (held.get(subject), label) if text is not None), default=None)


def _shared(named: Iterable[tuple[str, str]]) -> int:
    return sum(count > 1 for count in Counter(label for label, _ in set(named)).values())
