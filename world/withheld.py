"""Set facts aside that no training text may state: what the evaluation half of the embedded zsRE teaches.

`python -m world.withheld` takes them out of the triples and of ParaRel's tuples, and lists them in
`data/zsre/withheld.jsonl`. Doing it again changes nothing.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from counterfact.core.files import write_jsonl
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed
from world.knowledge import WITHHELD, Knowledge, order, read_knowledge
from world.rules import RELATIONS
from world.slice import FEWEST_SUBJECTS
from world.table import Fact
from world.writing import Slice, write_slice

EACH = 10


def choose(facts: list[Fact], records: list[Fact], each: int = EACH) -> list[Fact]:
    """Choose facts to withhold.

    A fact qualifies if its subject has one object for the relation and the object keeps `FEWEST_SUBJECTS` others.
    Facts that are no record are taken first, then, by a fixed hash, records.

    Args:
        facts: all facts of the slice.
        records: those of them that may be edited.
        each: how many to take of each relation, where there are so many.
    """
    objects = Counter((fact.subject, fact.relation) for fact in facts)
    holders = Counter((fact.relation, fact.object) for fact in facts)
    edited = set(records)
    singles: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if objects[fact.subject, fact.relation] == 1:
            singles[fact.relation].append(fact)
    chosen: list[Fact] = []
    for relation in RELATIONS:
        ranked = sorted(singles[relation], key=lambda fact: (fact in edited, derive_seed("withheld", *fact)))
        taken: list[Fact] = []
        for fact in ranked:
            if len(taken) < each and holders[relation, fact.object] > FEWEST_SUBJECTS:
                holders[relation, fact.object] -= 1
                taken.append(fact)
        chosen += taken
    return chosen


def reserve(knowledge: Knowledge, data: Path) -> list[Fact]:
    """Choose the withheld facts and write the slice without them, and their list; return them."""
    facts = sorted({*knowledge.facts, *knowledge.withheld}, key=order)
    records = sorted({*knowledge.records, *_once_records(knowledge)}, key=order)
    withheld = choose(facts, records)
    gone = set(withheld)
    rest = {relation: [it for it in records if it.relation == relation and it not in gone] for relation in RELATIONS}
    write_jsonl(data / WITHHELD, (_line(fact, knowledge, fact in set(records)) for fact in withheld))
    write_slice(Slice([fact for fact in facts if fact not in gone], rest), knowledge.label, data)
    return withheld


def _once_records(knowledge: Knowledge) -> list[Fact]:
    return [fact for fact in knowledge.withheld if fact in knowledge.withheld_records]


def _line(fact: Fact, knowledge: Knowledge, record: bool) -> dict[str, str | bool]:
    return {
        "relation_id": fact.relation,
        "subject_id": fact.subject,
        "subject": knowledge.label[fact.subject],
        "object_id": fact.object,
        "object": knowledge.label[fact.object],
        "record": record,
    }


def main() -> None:
    """Reserve the facts of the data folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder (%(default)s)")
    data = parser.parse_args().data
    reserve(read_knowledge(data), data)


if __name__ == "__main__":
    main()
