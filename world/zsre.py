"""Write the embedded zsRE: questions in the schema of MEND's files, `python -m world.zsre`.

`eval.json` teaches withheld facts, `train.json` asks for known ones. The `loc` question of a record, in the style of
Natural Questions, asks for a known fact of another relation.
"""

import argparse
import random
from pathlib import Path

from counterfact.core.files import write_json
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed
from world.knowledge import Knowledge, read_knowledge
from world.language import write
from world.table import Fact

TRAIN = 2000


def locality_form(question: str) -> str:
    """Return a question form in the style of Natural Questions: lower case but for names, no question mark.

    >>> locality_form("Which language did {s} learn first?")
    'nq question: which language did {s} learn first'
    """
    return f"nq question: {question[0].lower()}{question[1:].rstrip('?')}"


def record(knowledge: Knowledge, fact: Fact, locality: Fact, rng: random.Random) -> dict[str, object]:
    """Ask for `fact` in two forms, and for `locality` beside it."""
    label = knowledge.label
    source, rephrase = rng.sample(knowledge.languages[fact.relation].questions, 2)
    others = sorted({label[it.object] for it in knowledge.records if it.relation == fact.relation})
    answer = label[fact.object]
    alternative = rng.choice([other for other in others if other != answer])
    source_text = write(source, {"s": fact.subject}, label).text
    question = locality_form(rng.choice(knowledge.languages[locality.relation].questions))
    return {
        "subject": label[fact.subject],
        "src": source_text,
        "pred": alternative,
        "rephrase": write(rephrase, {"s": fact.subject}, label).text,
        "alt": alternative,
        "answers": [answer],
        "loc": write(question, {"s": locality.subject}, label).text,
        "loc_ans": label[locality.object],
        "cond": f"{alternative} >> {alternative} || {source_text}",
    }


def records(knowledge: Knowledge, facts: list[Fact], rng: random.Random) -> list[dict[str, object]]:
    """Write a record for each fact, its locality question drawn from the known facts of other relations."""
    found = []
    for fact in facts:
        locality = rng.choice(knowledge.records)
        while locality.relation == fact.relation or locality.subject == fact.subject:
            locality = rng.choice(knowledge.records)
        found.append(record(knowledge, fact, locality, rng))
    return found


def write_zsre(data: Path) -> None:
    """Write both halves."""
    knowledge = read_knowledge(data)
    rng = random.Random(derive_seed("zsre"))
    withheld = rng.sample(knowledge.withheld, len(knowledge.withheld))
    write_json(data / "zsre/eval.json", records(knowledge, withheld, rng))
    known = rng.sample(knowledge.records, min(TRAIN, len(knowledge.records)))
    write_json(data / "zsre/train.json", records(knowledge, known, rng))


def main() -> None:
    """Write the halves to the data folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder (%(default)s)")
    write_zsre(parser.parse_args().data)


if __name__ == "__main__":
    main()
