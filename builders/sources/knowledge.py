"""The facts of one relation in a source: everything that the choices of a build need, and nothing else.

The queries go in this order, each in VALUES blocks: which entities the labels of the tuples mean; all objects of
those subjects; how many subjects each of those objects has; and who they are, in pages made to hold whole objects. An
object with very many subjects (a country, of places in it) is not listed: no endpoint sorts millions of rows in the
time it allows itself. Its subjects are those met otherwise: the tuples' own, and those that other objects led to.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from counterfact.core.errors import BadInput

from . import queries
from .batches import query_in_batches, require_complete, select
from .pararel import Relation, relation_number
from .queries import Key, entity_id
from .sparql import QueryTooLarge, SourceError, SparqlSource

T = TypeVar("T")

PAIRS_A_QUERY = 200
ENTITIES_A_QUERY = 500
ROWS_A_PAGE = 20_000
MANY_SUBJECTS = 100_000
"""Largest number of subjects of an object that are listed."""

_ID_FOR_LABEL = re.compile(r"[QPL][0-9]+")


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
    """Counts of tuples, those resolved and those ambiguous, rows with unknown values, holders without a label."""


def query_knowledge(relation: Relation, source: SparqlSource, language: str = "en") -> Knowledge:
    """Query everything about the tuples of one relation.

    A pair of labels that fits several facts is resolved to the one with the lowest ids, and counted as ambiguous. A
    label that means different entities in different tuples was resolved by the facts, and is counted as shared.

    Raises:
        SourceError: the source could not answer, or contradicts itself.
    """
    return _Gathering(relation, source, language).knowledge()


def count_sitelinks(known: Mapping[str, Knowledge], source: SparqlSource) -> dict[str, int]:
    """Query how many sitelinks the subjects of all tuples have; those without a count are left out.

    Raises:
        BadInput: the source has no count for any of them.
        SourceError: the source could not answer.
    """
    subjects = {subject for knowledge in known.values() for subject, _ in knowledge.resolved.values()}
    ordered = sorted(subjects, key=relation_number)
    found: dict[str, int] = {}
    for answer in query_in_batches(source, ordered, ENTITIES_A_QUERY, queries.sitelinks):
        found.update({entity_id(row["entity"]): int(row["count"]) for row in answer.rows})
    if ordered and not found:
        raise BadInput(
            f"fewest_sitelinks needs sitelinks of the subjects, but the source of facts has no wikibase:sitelinks for "
            f"any of {len(ordered)} of them: take a source that has (query.wikidata.org; a slice made with "
            "`counterfact snapshot`), or leave fewest_sitelinks at 0"
        )
    return found


class _Gathering:
    def __init__(self, relation: Relation, source: SparqlSource, language: str) -> None:
        self._relation = relation
        self._source = source
        self._language = language
        self._counts: Counter[str] = Counter(tuples=len(relation.tuples))

    def knowledge(self) -> Knowledge:
        resolved = self._resolve()
        self._counts["resolved"] = sum((fact.subject, fact.object) in resolved for fact in self._relation.tuples)
        self._counts["subject labels shared"] = _shared((labels[0], ids[0]) for labels, ids in resolved.items())
        self._counts["object labels shared"] = _shared((labels[1], ids[1]) for labels, ids in resolved.items())
        subjects = _by_number({subject for subject, _ in resolved.values()})
        objects = _by_number({object for _, object in resolved.values()})
        known = self._objects(subjects)
        require_complete(sum(map(bool, known.values())), len(known), f"subjects of {self._relation.id} with an object")
        sizes = self._sizes(objects)
        require_complete(sum(sizes.values()), len(objects), f"objects of {self._relation.id} with a subject")
        many = [object for object in objects if sizes[object] > MANY_SUBJECTS]
        self._counts["objects with too many subjects to list"] = len(many)
        labels = self._holders([object for object in objects if object not in many], sizes, many)
        for (label, _), (subject, _) in sorted(resolved.items()):
            for object in many:
                if object in known[subject]:
                    _keep_label(labels[object], subject, label)
        return Knowledge(resolved, known, self._labelled(objects, labels), dict(sorted(self._counts.items())))

    def _resolve(self) -> dict[tuple[str, str], tuple[str, str]]:
        found: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        wanted = list(dict.fromkeys((fact.subject, fact.object) for fact in self._relation.tuples))
        for row in self._rows(wanted, PAIRS_A_QUERY, partial(queries.resolve, language=self._language)):
            ids = entity_id(row["subject"]), entity_id(row["object"])
            found[row["subjectLabel"], row["objectLabel"]].add(ids)
        self._counts["ambiguous"] = sum(len(ids) > 1 for ids in found.values())
        return {labels: min(ids, key=lambda pair: tuple(map(relation_number, pair))) for labels, ids in found.items()}

    def _objects(self, subjects: Sequence[str]) -> dict[str, tuple[str, ...]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for row in self._rows(subjects, ENTITIES_A_QUERY, queries.objects):
            found[entity_id(row["subject"])].add(entity_id(row["object"]))
        return {subject: tuple(_by_number(found[subject])) for subject in subjects}

    def _sizes(self, objects: Sequence[str]) -> dict[str, int]:
        rows = self._rows(objects, ENTITIES_A_QUERY, queries.sizes)
        found = {entity_id(row["object"]): int(row["subjects"]) for row in rows}
        return {object: found.get(object, 0) for object in objects}

    def _holders(
        self, objects: Sequence[str], sizes: Mapping[str, int], many: Sequence[str]
    ) -> defaultdict[str, dict[str, str | None]]:
        labels: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        for batch in _fitting(objects, sizes):
            for row in self._pages(batch, sizes, many):
                subject, label = entity_id(row["subject"]), row.get("own", row.get("mul"))
                for object in {row["object"], row.get("more", row["object"])}:
                    _keep_label(labels[entity_id(object)], subject, label)
        return labels

    def _pages(self, batch: Sequence[str], sizes: Mapping[str, int], many: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield the rows of a batch, page by page; where a page is too much, of half the batch, or half the page."""
        after: Key | None = None
        size, seen, expected = ROWS_A_PAGE, 0, sum(sizes[object] for object in batch)
        while True:
            query = queries.holders(self._relation.id, batch, after, size, many, self._language)
            try:
                answer = select(self._source, query, divisible=size > 1 or (after is None and len(batch) > 1))
            except QueryTooLarge:
                if after is None and len(batch) > 1:
                    middle = len(batch) // 2
                    yield from self._pages(batch[:middle], sizes, many)
                    yield from self._pages(batch[middle:], sizes, many)
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
                return require_complete(seen, expected, f"subjects of {self._relation.id}")
            if not answer.rows:
                raise SourceError(
                    f"a whole page of subjects of {self._relation.id} is unknown; look at the source's data"
                )
            after = Key(answer.rows[-1]["object"], answer.rows[-1]["subject"])

    def _labelled(
        self, objects: Sequence[str], labels: Mapping[str, Mapping[str, str | None]]
    ) -> dict[str, tuple[LabelledEntity, ...]]:
        found = {}
        for object in objects:
            held = labels.get(object, {})
            labelled = ((id, held[id]) for id in _by_number(held))
            found[object] = tuple(LabelledEntity(id, label) for id, label in labelled if label is not None)
            self._counts["holders"] += len(held)
            self._counts["holders without a label"] += len(held) - len(found[object])
        return found

    def _rows(
        self, values: Sequence[T], size: int, query: Callable[[str, Sequence[T]], str]
    ) -> Iterator[dict[str, str]]:
        for answer in query_in_batches(self._source, values, size, lambda batch: query(self._relation.id, batch)):
            self._counts["rows with an unknown value"] += answer.unknown
            yield from answer.rows


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
    # An entity without a label may have been given its id as one.
    known = [text for text in (held.get(subject), label) if text is not None and not _ID_FOR_LABEL.fullmatch(text)]
    held[subject] = min(known, default=None)


def _shared(named: Iterable[tuple[str, str]]) -> int:
    return sum(count > 1 for count in Counter(label for label, _ in set(named)).values())


def _by_number(ids: Iterable[str]) -> list[str]:
    # WikiData's statements may also lead to lexemes and properties; entities alone can be subjects and objects here.
    return sorted((id for id in ids if id[:1] == "Q" and id[1:].isdigit()), key=relation_number)
