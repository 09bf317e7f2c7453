"""What a source of facts knows of one relation: everything the choices of the pipeline need, and nothing else."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar

from builders import queries
from builders.pararel import Relation, relation_number
from builders.queries import Key, entity_id
from builders.wikidata import SourceError, SparqlSource

T = TypeVar("T")

PAIRS_A_QUERY = 200
ENTITIES_A_QUERY = 500
ROWS_A_PAGE = 20_000


@dataclass(frozen=True)
class Holder:
    """A subject that has an object, with its label."""

    id: str
    label: str


@dataclass(frozen=True)
class Knowledge:
    """The facts of one relation."""

    resolved: dict[tuple[str, str], tuple[str, str]]
    """Labels of subject and object to their ids."""
    objects: dict[str, tuple[str, ...]]
    """Subject to all its objects."""
    holders: dict[str, tuple[Holder, ...]]
    """Object to all its subjects that have a label, by number."""
    counts: dict[str, int]
    """What was seen: tuples asked for, resolved, ambiguous; rows with unknown values; holders without a label."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a file."""
        holders = {key: [[holder.id, holder.label] for holder in held] for key, held in self.holders.items()}
        resolved = [[*labels, *ids] for labels, ids in self.resolved.items()]
        return {"resolved": resolved, "objects": self.objects, "holders": holders, "counts": self.counts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            resolved={(s, o): (subject, object) for s, o, subject, object in value["resolved"]},
            objects={subject: tuple(objects) for subject, objects in value["objects"].items()},
            holders={
                object: tuple(Holder(id, label) for id, label in held) for object, held in value["holders"].items()
            },
            counts=dict(value["counts"]),
        )


def gather(relation: Relation, source: SparqlSource, language: str = "en") -> Knowledge:
    """Ask a source for everything about the tuples of one relation.

    A pair of labels that fits several facts is resolved to the one with the lowest ids, and counted as ambiguous. A
    label that means different entities in different tuples was resolved by the facts, and is counted as shared.
    """
    counts: Counter[str] = Counter(tuples=len(relation.tuples))
    resolved = _resolve(relation, source, language, counts)
    counts["resolved"] = sum((fact.subject, fact.object) in resolved for fact in relation.tuples)
    counts["subject labels shared"] = _shared((labels[0], ids[0]) for labels, ids in resolved.items())
    counts["object labels shared"] = _shared((labels[1], ids[1]) for labels, ids in resolved.items())
    subjects = _by_number({subject for subject, _ in resolved.values()})
    objects = _by_number({object for _, object in resolved.values()})
    return Knowledge(
        resolved=resolved,
        objects=_objects(relation.id, subjects, source, counts),
        holders=_holders(relation.id, objects, source, language, counts),
        counts=dict(sorted(counts.items())),
    )


def blocks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut values into lists of `size`, the last one shorter.

    >>> list(blocks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    left = iter(values)
    while block := list(islice(left, size)):
        yield block


def _shared(named: Iterable[tuple[str, str]]) -> int:
    return sum(count > 1 for count in Counter(label for label, _ in set(named)).values())


def _resolve(
    relation: Relation, source: SparqlSource, language: str, counts: Counter[str]
) -> dict[tuple[str, str], tuple[str, str]]:
    found: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    wanted = dict.fromkeys((fact.subject, fact.object) for fact in relation.tuples)
    for block in blocks(wanted, PAIRS_A_QUERY):
        answer = source.select(queries.resolve(relation.id, block, language))
        counts["rows with an unknown value"] += answer.unknown
        for row in answer.rows:
            ids = entity_id(row["subject"]), entity_id(row["object"])
            found[row["subjectLabel"], row["objectLabel"]].add(ids)
    counts["ambiguous"] = sum(len(ids) > 1 for ids in found.values())
    return {labels: min(ids, key=lambda pair: tuple(map(relation_number, pair))) for labels, ids in found.items()}


def _objects(
    relation: str, subjects: Sequence[str], source: SparqlSource, counts: Counter[str]
) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for block in blocks(subjects, ENTITIES_A_QUERY):
        answer = source.select(queries.objects(relation, block))
        counts["rows with an unknown value"] += answer.unknown
        for row in answer.rows:
            found[entity_id(row["subject"])].add(entity_id(row["object"]))
    return {subject: tuple(_by_number(found[subject])) for subject in subjects}


def _holders(
    relation: str, objects: Sequence[str], source: SparqlSource, language: str, counts: Counter[str]
) -> dict[str, tuple[Holder, ...]]:
    labels: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for block in blocks(objects, ENTITIES_A_QUERY):
        for row in _pages(relation, block, source, language, counts):
            held, subject = labels[entity_id(row["object"])], entity_id(row["subject"])
            known = [label for label in (held.get(subject), row.get("own", row.get("mul"))) if label is not None]
            held[subject] = min(known, default=None)
    found = {}
    for object in objects:
        held = labels[object]
        found[object] = tuple(Holder(id, label) for id in _by_number(held) if (label := held[id]) is not None)
        counts["holders"] += len(held)
        counts["holders without a label"] += len(held) - len(found[object])
    return found


def _pages(
    relation: str, objects: Sequence[str], source: SparqlSource, language: str, counts: Counter[str]
) -> Iterator[dict[str, str]]:
    after: Key | None = None
    while True:
        answer = source.select(queries.holders(relation, objects, after, ROWS_A_PAGE, language))
        counts["rows with an unknown value"] += answer.unknown
        yield from answer.rows
        if len({(row["object"], row["subject"]) for row in answer.rows}) + answer.unknown < ROWS_A_PAGE:
            return
        if not answer.rows:
            raise SourceError(f"a whole page of subjects of {relation} has unknown subjects; look at the source's data")
        after = Key(answer.rows[-1]["object"], answer.rows[-1]["subject"])


def _by_number(ids: Iterable[str]) -> list[str]:
    # WikiData's statements may also lead to lexemes and properties; entities alone can be subjects and objects here.
    return sorted((id for id in ids if id[:1] == "Q" and id[1:].isdigit()), key=relation_number)
