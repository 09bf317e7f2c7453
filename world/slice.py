"""Cut the embedded slice of WikiData from a table of facts: `python -m world.slice --facts facts.tsv.gz`.

The rule, in short: for each relation take the fifteen most famous sound objects with enough subjects, give each of them
six subjects or more, facts of CoDEx first, then subjects that bring few other facts, then famous ones; bring with every
subject all that the table knows of it in the 34 relations. `data/wikidata/README.md` states it in full.
"""

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from counterfact.core.places import data_folder
from world.rules import RELATIONS, RULES, is_of_kind, is_sound_object, is_sound_subject, may_be_edited, overlap
from world.table import Fact, Table, number, read_rows
from world.writing import Slice, write_slice

OBJECTS = 15
FACTS = 90
FEWEST_SUBJECTS = 5
WASTE = 1
COMMON = 12
SPARE = 3
FEWEST_FACTS = 80
PLACES = frozenset({"P17", "P30", "P36", "P37"})
MANY = 6


def facts_of(table: Table, subject: str) -> list[Fact] | None:
    """Return all that is known of a subject in the 34 relations, or None where a part of it is not sound.

    Of places, which belong to scores of organisations and have scores of twins, a relation with an unsound object or
    with more than `MANY` is left out whole. A subject and a relation are in the slice with all objects or with none.
    """
    facts: list[Fact] = []
    place = not PLACES.isdisjoint(table.relations[subject])
    for relation in sorted(table.relations[subject] & RULES.keys(), key=number):
        objects = sorted(table.objects[subject, relation], key=number)
        sound = all(is_sound_object(table, relation, it) and not overlap(*labels(table, subject, it)) for it in objects)
        if sound and len(objects) <= MANY:
            facts += (Fact(subject, relation, it) for it in objects)
        elif not place:
            return None
    return facts


def labels(table: Table, *entities: str) -> tuple[str, ...]:
    """Return the labels of some entities."""
    return tuple(table.label[entity] for entity in entities)


class Cutter:
    """Chooses objects, then fills the places of their subjects one by one."""

    def __init__(self, table: Table) -> None:
        self.table = table
        sound = (entity for entity in sorted(table.relations, key=number) if is_sound_subject(table, entity))
        self.known = {entity: facts for entity in sound if (facts := facts_of(table, entity))}
        self.holders: dict[tuple[str, str], list[str]] = defaultdict(list)
        for subject, facts in self.known.items():
            for fact in facts:
                self.holders[fact.relation, fact.object].append(subject)
        self.quota: dict[tuple[str, str], int] = {}
        for relation in RELATIONS:
            chosen = self.choose_objects(relation)
            share = math.ceil(FACTS / max(1, len(chosen)))
            self.quota.update({(relation, entity): share for entity in chosen})
        self.filled: Counter[tuple[str, str]] = Counter()
        self.held: Counter[tuple[str, str]] = Counter()
        self.subjects: set[str] = set()

    def choose_objects(self, relation: str) -> list[str]:
        """Return the most famous objects that have enough subjects, none within another's label."""
        rule, fit = RULES[relation], []
        for (other, entity), holders in self.holders.items():
            singles = sum(may_be_edited(self.table, subject, relation) for subject in holders)
            enough = singles >= rule.fewest or (rule.scarce and singles and len(holders) >= FEWEST_SUBJECTS)
            if other == relation and enough and is_of_kind(self.table, entity, rule.kind):
                fit.append(entity)
        fit.sort(key=lambda entity: (-self.table.fame[entity], number(entity)))
        chosen: list[str] = []
        for entity in fit:
            if len(chosen) < OBJECTS and not any(overlap(*labels(self.table, entity, other)) for other in chosen):
                chosen.append(entity)
        return chosen

    def fits(self, fact: Fact) -> bool:
        """Whether a fact may take one of its object's places."""
        return RULES[fact.relation].scarce or may_be_edited(self.table, fact.subject, fact.relation)

    def is_free(self, fact: Fact) -> bool:
        """Whether a fact takes a free place of its object."""
        place = (fact.relation, fact.object)
        return self.fits(fact) and self.filled[place] < self.quota.get(place, 0)

    def waste(self, subject: str) -> int:
        """Return how many facts a subject would bring that take no free place; a common object counts twice."""
        wasted = [fact for fact in self.known[subject] if not self.is_free(fact)]
        return sum(1 + (self.held[fact.relation, fact.object] >= COMMON) for fact in wasted)

    def add(self, subject: str) -> None:
        """Take a subject with all its facts."""
        self.subjects.add(subject)
        self.held.update((fact.relation, fact.object) for fact in self.known[subject])
        self.filled.update((fact.relation, fact.object) for fact in self.known[subject] if self.fits(fact))

    def fill(self, relation: str, entity: str) -> None:
        """Take subjects of an object until its quota is met."""
        free = [subject for subject in self.holders[relation, entity] if subject not in self.subjects]
        while self.filled[relation, entity] < self.quota[relation, entity] and free:
            best = min(free, key=lambda subject: self.rank(subject, relation, entity))
            if not may_be_edited(self.table, best, relation) and self.filled[relation, entity] >= FEWEST_SUBJECTS + 1:
                return
            free.remove(best)
            self.add(best)

    def rank(self, subject: str, relation: str, entity: str) -> tuple[bool, bool, bool, int, int, int]:
        """Return what the least of is taken first."""
        waste = self.waste(subject)
        return (
            not may_be_edited(self.table, subject, relation),
            waste > WASTE,
            Fact(subject, relation, entity) not in self.table.first,
            waste,
            -self.table.fame[subject],
            number(subject),
        )

    def top_up(self, relation: str) -> None:
        """Take more subjects of a relation that has too few, though their objects have few subjects."""
        have = sum(fact.relation == relation for subject in self.subjects for fact in self.known[subject])
        free = {subject for (other, _), holders in self.holders.items() if other == relation for subject in holders}
        for subject in sorted(free - self.subjects, key=lambda it: (self.waste(it), -self.table.fame[it], number(it))):
            if have >= FEWEST_FACTS:
                return
            self.add(subject)
            have += sum(fact.relation == relation for fact in self.known[subject])

    def run(self) -> Slice:
        """Fill all quotas, the relation with the fewest subjects first."""
        supply = Counter(fact.relation for facts in self.known.values() for fact in facts if self.is_free(fact))
        order = sorted(RELATIONS, key=lambda relation: (supply[relation], number(relation)))
        for relation in order:
            for other, entity in list(self.quota):
                if other == relation:
                    self.fill(relation, entity)
        for relation in order:
            if RULES[relation].scarce:
                self.top_up(relation)
        facts = {fact for subject in self.subjects for fact in self.known[subject]} | self.background()
        return Slice(sorted(facts), {relation: sorted(self.records(relation)) for relation in RELATIONS})

    def background(self) -> set[Fact]:
        """Return where the chosen objects lie, and the capitals and languages of those that are places."""
        objects = {entity for _, entity in self.quota} & self.known.keys()
        return {fact for entity in objects for fact in self.known[entity] if fact.relation in PLACES}

    def records(self, relation: str) -> Iterator[Fact]:
        """Yield the facts of a relation that may be edited, the best of an object that has too many."""
        for other, entity in self.quota:
            if other == relation and self.filled[relation, entity] >= FEWEST_SUBJECTS:
                held = [
                    Fact(subject, relation, entity)
                    for subject in self.holders[relation, entity]
                    if subject in self.subjects and may_be_edited(self.table, subject, relation)
                ]
                held.sort(key=lambda it: (it not in self.table.first, -self.table.fame[it.subject], number(it.subject)))
                yield from held[: self.quota[relation, entity] + SPARE]


def main() -> None:
    """Read the table, write the slice and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--facts", type=Path, required=True, help="the table, tab-separated, gzipped or not")
    parser.add_argument("--data", type=Path, default=data_folder(), help="where to write (%(default)s)")
    arguments = parser.parse_args()
    table = Table(read_rows(arguments.facts))
    sys.stdout.write(write_slice(Cutter(table).run(), table.label, arguments.data))


if __name__ == "__main__":
    main()
