"""Read the facts of the embedded world, and say which of them a model may be trained on."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from world.language import Language, read_language
from world.rules import RELATIONS
from world.table import Fact, number

ENTITY = "<http://www.wikidata.org/entity/"
PROPERTY = "<http://www.wikidata.org/prop/direct/"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
WITHHELD = "zsre/withheld.jsonl"
EXAMPLES = 3


@dataclass(frozen=True)
class Knowledge:
    """All facts of the world.

    Withheld facts are in no other list: neither ParaRel's tuples nor the triples nor any text holds them.
    """

    label: dict[str, str]
    """Q-id -> label."""
    facts: tuple[Fact, ...]
    """Every fact of the slice."""
    records: tuple[Fact, ...]
    """The facts that may be edited: ParaRel's tuples."""
    withheld: tuple[Fact, ...]
    """The facts that zsRE's evaluation half teaches."""
    withheld_records: frozenset[Fact]
    """Those of them that would be records."""
    languages: dict[str, Language] = field(repr=False)

    @cached_property
    def of_subject(self) -> dict[str, list[Fact]]:
        """Q-id -> the facts about it."""
        found = defaultdict(list)
        for fact in self.facts:
            found[fact.subject].append(fact)
        return dict(found)

    @cached_property
    def holders(self) -> dict[tuple[str, str], list[str]]:
        """(relation, object) -> its subjects."""
        found = defaultdict(list)
        for fact in self.facts:
            found[fact.relation, fact.object].append(fact.subject)
        return dict(found)

    @cached_property
    def objects(self) -> dict[tuple[str, str], list[str]]:
        """(subject, relation) -> its objects."""
        found = defaultdict(list)
        for fact in self.facts:
            found[fact.subject, fact.relation].append(fact.object)
        return dict(found)

    def siblings(self, fact: Fact, rng: random.Random) -> dict[str, str] | None:
        """Return entities for all four slots: two other subjects of the object stand in `a` and `b`; else None.

        They are two of the first `EXAMPLES`, so that an object is always illustrated by the same few.
        """
        others = [holder for holder in self.holders[fact.relation, fact.object] if holder != fact.subject]
        if len(others) < 2:
            return None
        first, second = rng.sample(others[:EXAMPLES], 2)
        return {"s": fact.subject, "o": fact.object, "a": first, "b": second}


def read_knowledge(data: Path) -> Knowledge:
    """Read `data/wikidata/facts.nt`, ParaRel's tuples, the withheld facts, and the forms of all relations.

    Raises:
        BadInput: a file is missing, or a tuple or withheld fact is not as the triples say.
    """
    label, facts = read_triples(data / "wikidata/facts.nt")
    withheld: list[Fact] = []
    once: set[Fact] = set()
    if (data / WITHHELD).exists():
        for line in read_jsonl(data / WITHHELD):
            fact = Fact(line["subject_id"], line["relation_id"], line["object_id"])
            withheld.append(fact)
            once |= {fact} if line["record"] else set()
            label.update({fact.subject: line["subject"], fact.object: line["object"]})
    records = set(_records(data, label, set(facts)))
    return Knowledge(
        label=label,
        facts=tuple(sorted(set(facts) - set(withheld), key=order)),
        records=tuple(sorted(records - set(withheld), key=order)),
        withheld=tuple(withheld),
        withheld_records=frozenset(once),
        languages={relation: read_language(data, relation) for relation in RELATIONS},
    )


def order(fact: Fact) -> tuple[int, int, int]:
    """Return what facts are sorted by: relation, subject, object, by their numbers."""
    return number(fact.relation), number(fact.subject), number(fact.object)


def read_triples(path: Path) -> tuple[dict[str, str], list[Fact]]:
    """Read labels and `wdt:` statements from N-Triples."""
    label: dict[str, str] = {}
    facts: list[Fact] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}: make the slice first (python -m world.slice)") from error
    for line in lines:
        subject, predicate, rest = line.split(" ", 2)
        if predicate == LABEL:
            label[subject[len(ENTITY) : -1]] = json.loads(rest[: rest.rindex('"') + 1])
        elif predicate.startswith(PROPERTY):
            target = rest.removesuffix(" .")
            facts.append(Fact(subject[len(ENTITY) : -1], predicate[len(PROPERTY) : -1], target[len(ENTITY) : -1]))
    return label, facts


def _records(data: Path, label: dict[str, str], facts: set[Fact]) -> list[Fact]:
    named = {(fact.relation, label[fact.subject], label[fact.object]): fact for fact in facts}
    found = []
    for relation in RELATIONS:
        for line in read_jsonl(data / f"pararel/trex_lms_vocab/{relation}.jsonl"):
            fact = named.get((relation, line["sub_label"], line["obj_label"]))
            if fact is None:
                raise BadInput(f"{relation}: the tuple {line} is not among the triples")
            found.append(fact)
    return found
