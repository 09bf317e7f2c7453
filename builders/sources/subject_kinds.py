"""Which subjects a relation may have: what they are (P31), and of people what they do (P106), up the tree of classes.

WikiData lets editors say of a newspaper in which "original language of film or TV show" it is. A table that ships with
the toolkit, `data/relations/subject_kinds.jsonl`, says of some relations which kinds of subjects they are about.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.places import data_folder
from counterfact.core.records import Border

from . import queries
from .batches import query_in_batches
from .knowledge import Knowledge
from .queries import entity_id
from .relation_queries import ENTITIES_A_QUERY, by_number
from .sparql import SparqlSource

INSTANCE, OCCUPATION, SUBCLASS = "P31", "P106", "P279"
HUMAN = "Q5"
ROOT = "Q35120"
"""The class `entity`: a class from which it is not reached stands in a tree that the source has only in part."""
CLASSES_A_QUERY = 100
"""Most classes a query asks about; a source walks up the tree from each of them."""
POOLS = 3
"""Of an object's subjects, so many times the size of a pool are asked about: some of them may be left out."""

Classes = Mapping[str, Collection[str]]


class SubjectKinds(Border):
    """What the subjects of a relation are."""

    relation: str
    kinds: dict[str, str]
    """Classes, with their names: a subject is one of these."""
    occupations: dict[str, str] = Field(default={})
    """Occupations, with their names: a human whose occupation is known has one of these; empty for any."""

    def admits(self, kinds: Iterable[str], occupations: Iterable[str], reached: Classes) -> bool | None:
        """Tell whether a subject is of the relation's kinds.

        Args:
            kinds: classes that it is an instance of.
            occupations: what it does; counts of humans alone.
            reached: class to the classes that it is a kind of, as far as they are in the table, and `ROOT`.

        Returns:
            whether it is, or None where the source does not tell: there is no class, or one whose tree is not whole.

        >>> sport = SubjectKinds(relation="P641", kinds={"Q5": "human"}, occupations={"Q2066131": "athlete"})
        >>> tree = {"Q5": {ROOT}, "Q33999": {ROOT}, "Q937857": {"Q2066131", ROOT}, "Q11032": {ROOT}}
        >>> [sport.admits(["Q5"], [job], tree) for job in ("Q33999", "Q937857", "Q1")]
        [False, True, None]
        >>> sport.admits(["Q11032"], [], tree), sport.admits([], [], tree)
        (False, None)
        """
        kinds = set(kinds)
        if not self.occupations or HUMAN not in kinds:
            return _is_one(kinds, self.kinds, reached)
        # A duo may be two humans and a team.
        told = (_is_one(kinds, set(self.kinds) - {HUMAN}, reached), _is_one(occupations, self.occupations, reached))
        return True if True in told else None if None in told else False


class SubjectsTold(NamedTuple):
    """What a source tells of the subjects of a relation."""

    asked: int
    """Number of subjects that were asked about."""
    other: frozenset[str]
    """Those that are of another kind."""
    unknown: int
    """Number of those of which it cannot be told."""

    def counts(self) -> dict[str, int]:
        """Return how many there are of each."""
        return {"asked about": self.asked, "of another kind": len(self.other), "not known": self.unknown}


def subject_kinds_file() -> Path:
    """Return where the table is."""
    return data_folder() / "relations" / "subject_kinds.jsonl"


def load_subject_kinds() -> dict[str, SubjectKinds]:
    """Read the table, by relation.

    Raises:
        BadInput: a line is malformed; the file is named.
    """
    path = subject_kinds_file()
    try:
        rules = [SubjectKinds.model_validate(value) for value in read_jsonl(path)]
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from error
    return {rule.relation: rule for rule in rules}


def subjects_to_ask(
    known: Mapping[str, Knowledge], rules: Mapping[str, SubjectKinds], pool: int
) -> dict[str, set[str]]:
    """Return the subjects that matter, by relation: those of tuples, and the first of each object.

    Args:
        known: relation to its facts.
        rules: the table; relations that are not in it are left out.
        pool: how many subjects of an object prompts are drawn from, in the order of their numbers; 0 for all.
    """
    asked = {}
    for relation in known.keys() & rules.keys():
        knowledge = known[relation]
        subjects = {subject for subject, _ in knowledge.resolved.values()}
        for held in knowledge.holders.values():
            subjects.update(holder.id for holder in held[: POOLS * pool or None])
        asked[relation] = subjects
    return asked


def query_subject_kinds(
    asked: Mapping[str, Collection[str]], rules: Mapping[str, SubjectKinds], source: SparqlSource
) -> dict[str, SubjectsTold]:
    """Query which subjects are of another kind than their relation's, all relations together.

    A subject is of another kind only where the source tells: it is an instance of something, each class that it is an
    instance of is a kind of `ROOT`, and none of an admitted class; the same of the occupations of humans.

    Args:
        asked: relation to its subjects.
        rules: the table.
        source: the source of facts.

    Raises:
        SourceError: the source could not answer.
    """
    kinds, occupations = _classes_of(asked, rules, source)
    classes = {class_ for found in (kinds, occupations) for held in found.values() for class_ in held}
    targets = {ROOT}.union(*((*rules[relation].kinds, *rules[relation].occupations) for relation in asked))
    reached = _reached(classes, targets, source)
    told = {}
    for relation, subjects in asked.items():
        verdicts = {
            subject: rules[relation].admits(kinds.get(subject, ()), occupations.get(subject, ()), reached)
            for subject in subjects
        }
        other = frozenset(subject for subject, admitted in verdicts.items() if admitted is False)
        told[relation] = SubjectsTold(len(verdicts), other, sum(admitted is None for admitted in verdicts.values()))
    return told


def query_kind_facts(
    asked: Mapping[str, Collection[str]], rules: Mapping[str, SubjectKinds], source: SparqlSource
) -> Iterator[tuple[str, str, str]]:
    """Query all facts that `query_subject_kinds` rests on, and yield them: entity, relation, class.

    Args:
        asked: relation to its subjects.
        rules: the table.
        source: the source of facts.
    """
    kinds, occupations = _classes_of(asked, rules, source)
    front: set[str] = set()
    for relation, found in ((INSTANCE, kinds), (OCCUPATION, occupations)):
        for entity, classes in found.items():
            yield from ((entity, relation, class_) for class_ in classes)
            front |= classes
    seen: set[str] = set()
    while front:
        seen |= front
        above = _query_classes(front, SUBCLASS, source)
        for entity, classes in above.items():
            yield from ((entity, SUBCLASS, class_) for class_ in classes)
        front = set[str]().union(*above.values()) - seen


def _classes_of(
    asked: Mapping[str, Collection[str]], rules: Mapping[str, SubjectKinds], source: SparqlSource
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return what subjects are, and what the humans among them do whose relation asks for occupations."""
    kinds = _query_classes({subject for subjects in asked.values() for subject in subjects}, INSTANCE, source)
    busy = {subject for relation, subjects in asked.items() if rules[relation].occupations for subject in subjects}
    humans = {subject for subject in busy if HUMAN in kinds.get(subject, ())}
    return kinds, _query_classes(humans, OCCUPATION, source)


def _query_classes(entities: Iterable[str], relation: str, source: SparqlSource) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for answer in query_in_batches(
        source, by_number(entities), ENTITIES_A_QUERY, lambda batch: queries.above(batch, [relation])
    ):
        for row in answer.rows:
            # What is no entity is no class; slices of a dump have no such line.
            found[entity_id(row["entity"])].update(by_number([entity_id(row["above"])]))
    return dict(found)


def _reached(classes: Iterable[str], targets: Iterable[str], source: SparqlSource) -> dict[str, set[str]]:
    wanted = by_number(targets)
    # A class is a kind of itself, also where no engine counts a path without steps since it has no fact.
    found = {class_: {class_} for class_ in classes}
    for answer in query_in_batches(
        source, by_number(found), CLASSES_A_QUERY, lambda batch: queries.reached(batch, wanted)
    ):
        for row in answer.rows:
            found[entity_id(row["class"])].add(entity_id(row["target"]))
    return found


def _is_one(classes: Iterable[str], admitted: Collection[str], reached: Classes) -> bool | None:
    """Tell whether any of the classes is an admitted one; None if none is and not all trees are whole, or no class."""
    above = [reached.get(class_, ()) for class_ in classes]
    if any(class_ in admitted for held in above for class_ in held):
        return True
    return False if above and all(ROOT in held for held in above) else None
