"""The facts of one relation in a source: everything that the choices of a build need, and nothing else.

The queries go in this order, each in VALUES blocks: which entities the labels of the tuples mean; all objects of
those subjects; how many subjects each of those objects has; and who they are, in pages made to hold whole objects. An
object with very many subjects (a country, of places in it) is not listed: no endpoint counts or sorts millions of rows
in the time it allows itself. Of its subjects as many are asked for as a pool needs, in whatever order the source has
them, with all their objects; and those met otherwise are known too: the tuples' own, and those of other objects.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from counterfact.core.errors import BadInput

from . import queries
from .batches import query_in_batches, require_complete, select
from .labels import clean_label
from .pararel import FactTuple, Relation, relation_number
from .queries import Key, entity_id
from .sparql import QueryTooLarge, SourceError, SparqlSource

T = TypeVar("T")
_Found = defaultdict[tuple[str, str], set[tuple[str, str]]]
"""Labels of subject and object to the ids that they may mean."""

PAIRS_A_QUERY = 200
ENTITIES_A_QUERY = 500
ROWS_A_PAGE = 20_000
MANY_SUBJECTS = 100_000
"""Largest number of subjects of an object that are listed."""
STEPS_UP = 4
"""Steps from an object to what it is a kind or a part of that are followed."""
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


class _Search(NamedTuple):
    """One way to look for the entities that a pair of labels means."""

    name: str
    """What is counted; empty for the labels as they are."""
    forms: Callable[[str], Iterable[str]]
    tags: tuple[str, ...]
    """Languages of the labels that are looked for."""
    by_own_label: bool = True
    """Whether an entity is found only by the label that it is called by."""
    redirected: bool = False
    aliases: bool = False


def _searches(language: str) -> Iterator[_Search]:
    """Yield the searches in their order; each is made for the pairs that those before it did not find."""
    tags = (language, "mul")
    yield _Search("", lambda label: [label], tags)
    yield _Search("another Unicode form", lambda label: [unicodedata.normalize("NFD", label)], tags)
    yield _Search("another letter case", lambda label: [label, label[:1].swapcase() + label[1:]], tags)
    if language == "en":
        yield _Search("labels in en-gb or en-ca", lambda label: [label], ("en-gb", "en-ca", "en"), by_own_label=False)
    yield _Search("an object that was merged", lambda label: [label], tags, redirected=True)
    yield _Search("another name", lambda label: [label], tags, aliases=True)


def query_knowledge(relation: Relation, source: SparqlSource, language: str = "en") -> Knowledge:
    """Query everything about the tuples of one relation.

    A pair of labels that fits several facts is resolved to the one with the lowest ids, and counted as ambiguous. A
    label that means different entities in different tuples was resolved by the facts, and is counted as shared.

    Raises:
        SourceError: the source could not answer, or contradicts itself.
    """
    return _Gathering(relation, source, language).knowledge()


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
            for answer in query_in_batches(source, _by_number(front), ENTITIES_A_QUERY, queries.above)
            for row in answer.rows
        ]
        yield from rows
        front = {above for _, _, above in rows} - seen


class _Gathering:
    def __init__(self, relation: Relation, source: SparqlSource, language: str) -> None:
        self._relation = relation
        self._source = source
        self._language = language
        self._counts: Counter[str] = Counter(tuples=len(relation.tuples))
        self._wanted: frozenset[str] = frozenset()
        """Objects of the tuples."""
        self._many: list[str] = []
        """Objects whose subjects cannot be listed."""
        self._cleaned: set[str] = set()
        self._nameless: set[str] = set()
        """Subjects whose label names nothing."""
        self._merged: set[tuple[str, str]] = set()
        self._other_names: set[tuple[str, str]] = set()

    def knowledge(self) -> Knowledge:
        resolved = self._resolve()
        self._counts["resolved"] = sum((fact.subject, fact.object) in resolved for fact in self._relation.tuples)
        self._counts["subject labels shared"] = _shared((labels[0], ids[0]) for labels, ids in resolved.items())
        self._counts["object labels shared"] = _shared((labels[1], ids[1]) for labels, ids in resolved.items())
        subjects = _by_number({subject for subject, _ in resolved.values()})
        objects = _by_number({object for _, object in resolved.values()})
        self._wanted = frozenset(objects)
        known = self._objects(subjects)
        require_complete(sum(map(bool, known.values())), len(known), f"subjects of {self._relation.id} with an object")
        sizes = self._sizes(objects)
        require_complete(sum(sizes.values()), len(objects), f"objects of {self._relation.id} with a subject")
        self._many = [object for object in objects if sizes[object] > MANY_SUBJECTS]
        labels = self._all_holders(objects, sizes)
        for object in self._many:
            self._sample(object, labels)
        for names, (subject, _) in sorted(resolved.items()):
            for object in self._many:
                if object in known[subject]:
                    _keep_label(labels[object], subject, None if names in self._other_names else names[0])
        self._counts["objects with too many subjects to list"] = len(self._many)
        self._counts["holders with a label cleaned"] = len(self._cleaned)
        self._counts["holders with a label that names nothing"] = len(self._nameless)
        self._counts["facts with a merged object"] = len(self._merged)
        held = self._labelled(objects, labels)
        return Knowledge(resolved, known, held, dict(sorted(self._counts.items())), frozenset(self._other_names))

    def _resolve(self) -> dict[tuple[str, str], tuple[str, str]]:
        found: _Found = defaultdict(set)
        wanted = {(fact.subject, fact.object): fact.written for fact in self._relation.tuples if fact.named}
        asked: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        if with_ids := [fact for fact in self._relation.tuples if fact.named and fact.ids is not None]:
            self._find_by_ids(with_ids, found)
        for search in _searches(self._language):
            pairs: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
            for key in (key for key in wanted if key not in found):
                for form in _forms(search, key, wanted[key]):
                    if not search.by_own_label or search.redirected or search.aliases or form not in asked[key]:
                        asked[key].add(form)
                        pairs[form].append(key)
            before = len(found)
            for row in self._pairs(search, list(pairs)):
                ids = entity_id(row["subject"]), entity_id(row["object"])
                for key in pairs.get((row["subjectLabel"], row["objectLabel"]), ()):
                    found[key].add(ids)
            if search.name:
                self._counts[f"found by {search.name}"] = len(found) - before
            if search.aliases:
                self._other_names.update(list(found)[before:])
        self._find_by_vote(wanted, found)
        self._counts["ambiguous"] = sum(len(ids) > 1 for ids in found.values())
        return {labels: min(ids, key=lambda pair: tuple(map(relation_number, pair))) for labels, ids in found.items()}

    def _find_by_ids(self, facts: Sequence[FactTuple], found: _Found) -> None:
        """Find what a table of ids says, where the source has that fact."""
        known = self._objects(_by_number({fact.ids[0] for fact in facts if fact.ids}))
        for fact in facts:
            if fact.ids and fact.ids[1] in known[fact.ids[0]]:
                found[fact.subject, fact.object].add(fact.ids)
        self._counts["found by their ids"] = len(found)

    def _find_by_vote(self, wanted: Iterable[tuple[str, str]], found: _Found) -> None:
        """Find objects that the source calls otherwise than ParaRel: Antarctica, which one table calls Antarctic.

        An object's label that leads to no entity at all means the one that most of the subjects of its tuples have
        instead, of those whose label holds it or is held by it.
        """
        known = {object for _, object in found}
        voters: defaultdict[str, list[str]] = defaultdict(list)
        for subject, object in wanted:
            if object not in known:
                voters[object].append(subject)
        names = sorted({subject for subjects in voters.values() for subject in subjects})
        query = partial(queries.objects_of_named, language=self._language)
        held: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for row in self._rows(names, ENTITIES_A_QUERY, query):
            ids = entity_id(row["subject"]), entity_id(row["object"])
            held[row["subjectLabel"]].append((*ids, clean_label(row["own"]) or ""))
        before = len(found)
        for label, subjects in sorted(voters.items()):
            present = [subject for subject in subjects if subject in held]
            alike = {subject: {one for one in held[subject] if _alike(label, one[2])} for subject in present}
            votes = Counter(object for ones in alike.values() for object in {one[1] for one in ones})
            elected, most = max(votes.items(), key=lambda pair: (pair[1], -relation_number(pair[0])), default=("", 0))
            if most > 1 and 2 * most > len(present):
                for subject, ones in alike.items():
                    found[subject, label].update(one[:2] for one in ones if one[1] == elected)
                    if not found[subject, label]:
                        del found[subject, label]
        self._counts["found by a majority of subjects"] = len(found) - before
        self._other_names.update(list(found)[before:])

    def _pairs(self, search: _Search, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, str]]:
        query = partial(
            queries.resolve,
            language=self._language,
            tags=search.tags,
            redirected=search.redirected,
            aliases=search.aliases,
        )
        for row in self._rows(pairs, PAIRS_A_QUERY, query):
            # An entity is called by its `mul` label only where it has none in the language.
            own = all(
                row.get(f"{one}By") == queries.ALIAS or row.get(f"{one}Own", row[f"{one}Label"]) == row[f"{one}Label"]
                for one in ("subject", "object")
            )
            if own or not search.by_own_label:
                yield row

    def _objects(self, subjects: Sequence[str]) -> dict[str, tuple[str, ...]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for row in self._rows(subjects, ENTITIES_A_QUERY, queries.objects):
            found[entity_id(row["subject"])].add(entity_id(row.get("target", row["object"])))
            if "target" in row:
                self._merged.add((row["subject"], row["object"]))
        return {subject: tuple(_by_number(found[subject])) for subject in subjects}

    def _sizes(self, objects: Sequence[str]) -> dict[str, int]:
        very_many: set[str] = set()
        rows = self._rows(objects, ENTITIES_A_QUERY, queries.sizes, very_many.add)
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
            query = queries.holders(self._relation.id, batch, after, size, others, self._language)
            try:
                answer = select(self._source, query, divisible=size > 1 or (after is None and len(batch) > 1))
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
                return require_complete(seen, expected, f"subjects of {self._relation.id}")
            if not answer.rows:
                raise SourceError(
                    f"a whole page of subjects of {self._relation.id} is unknown; look at the source's data"
                )
            after = Key(answer.rows[-1]["object"], answer.rows[-1]["subject"])

    def _sample(self, object: str, labels: defaultdict[str, dict[str, str | None]]) -> None:
        """Ask for some subjects of an object that has very many, and for all objects of these."""
        query = queries.some_holders(self._relation.id, object, SAMPLE, self._language)
        answer = select(self._source, query, divisible=False)
        self._counts["rows with an unknown value"] += answer.unknown
        names = {entity_id(row["subject"]): self._name(row) for row in answer.rows}
        for subject, objects in self._objects(_by_number(names)).items():
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
            labelled = ((id, held[id]) for id in _by_number(held))
            found[object] = tuple(LabelledEntity(id, label) for id, label in labelled if label is not None)
            self._counts["holders"] += len(held)
            self._counts["holders without a label"] += len(held) - len(found[object])
        return found

    def _rows(
        self,
        values: Sequence[T],
        size: int,
        query: Callable[[str, Sequence[T]], str],
        too_large: Callable[[T], object] | None = None,
    ) -> Iterator[dict[str, str]]:
        relation = self._relation.id
        for answer in query_in_batches(self._source, values, size, lambda batch: query(relation, batch), too_large):
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
    held[subject] = min((text for text in (held.get(subject), label) if text is not None), default=None)


def _forms(search: _Search, cleaned: tuple[str, str], written: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the forms of a pair of labels, the cleaned ones first, then those of the file."""
    pairs = ((s, o) for s, o in dict.fromkeys((cleaned, written)))
    yield from dict.fromkeys((a, b) for s, o in pairs for a in search.forms(s) for b in search.forms(o))


def _alike(first: str, second: str) -> bool:
    a, b = first.casefold(), second.casefold()
    return bool(b) and (a in b or b in a)


def _shared(named: Iterable[tuple[str, str]]) -> int:
    return sum(count > 1 for count in Counter(label for label, _ in set(named)).values())


def _by_number(ids: Iterable[str]) -> list[str]:
    # WikiData's statements may also lead to lexemes and properties; entities alone can be subjects and objects here.
    return sorted((id for id in ids if id[:1] == "Q" and id[1:].isdigit()), key=relation_number)
