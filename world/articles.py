"""Compose short encyclopedia-like articles from the facts: reference texts, contexts and training text of the world.

`python -m world.articles` writes `data/articles/articles.jsonl`, one article a subject, and says in the triples which
article is about which subject.
"""

import argparse
import random
from pathlib import Path

from counterfact.core.files import write_jsonl
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed
from world.knowledge import Knowledge, read_knowledge
from world.language import Text, join, write
from world.rules import RELATIONS
from world.table import Fact
from world.writing import Slice, write_slice

SENTENCES = 8
MOST_FACTS = 5


class Composer:
    """Composes sentences about a subject; never two of the same form about the same fact in one article."""

    def __init__(self, knowledge: Knowledge, subject: str, rng: random.Random) -> None:
        self.knowledge = knowledge
        self.rng = rng
        facts = knowledge.of_subject[subject]
        self.facts = rng.sample(facts, min(len(facts), MOST_FACTS))
        self.used: set[tuple[Fact, str]] = set()

    def one_of(self, fact: Fact, forms: tuple[str, ...]) -> Text | None:
        """Write one form that this article has not used yet; None where there is none, or no sibling to name."""
        entities = self.knowledge.siblings(fact, self.rng) or {"s": fact.subject, "o": fact.object}
        free = [
            form
            for form in forms
            if (fact, form) not in self.used and ("a" in entities or ("{a}" not in form and "{b}" not in form))
        ]
        if not free:
            return None
        form = self.rng.choice(free)
        self.used.add((fact, form))
        return write(form, entities, self.knowledge.label)

    def fact(self, fact: Fact) -> Text | None:
        """State the fact."""
        return self.one_of(fact, self.knowledge.languages[fact.relation].facts)

    def also(self, fact: Fact) -> Text | None:
        """Name another subject of the same object."""
        return self.one_of(fact, self.knowledge.languages[fact.relation].also)

    def consequence(self, fact: Fact) -> Text | None:
        """Go on from an opening, each at most once in an article."""
        prompts = self.knowledge.languages[fact.relation].continuations
        free = [forms for forms in prompts if not any((fact, form) in self.used for form in forms)]
        return self.one_of(fact, self.rng.choice(free)) if free else None

    def about_object(self, fact: Fact) -> Text | None:
        """State a fact about the object, where it is itself a subject, or about another subject of it."""
        facts = self.knowledge.of_subject.get(fact.object, [])
        if facts:
            return self.fact(self.rng.choice(facts))
        entities = self.knowledge.siblings(fact, self.rng)
        if entities is None:
            return None
        others = [other for other in self.knowledge.of_subject[entities["a"]] if other.relation != fact.relation]
        return self.fact(self.rng.choice(others)) if others else None


def compose(knowledge: Knowledge, subject: str, rng: random.Random, sentences: int = SENTENCES) -> Text:
    """Compose an article: every fact of the subject at least once, then what follows from it, who else shares it.

    Args:
        knowledge: the facts and forms.
        subject: Q-id of whom it is about.
        rng: chooses forms, siblings and order.
        sentences: how many to aim at; a continued opening counts as one, though it may hold three.
    """
    composer = Composer(knowledge, subject, rng)
    parts = [text for fact in composer.facts if (text := composer.fact(fact))]
    lead = composer.consequence(rng.choice(composer.facts)) if rng.random() < 0.5 else None
    kinds = [composer.consequence, composer.also, composer.fact, composer.consequence, composer.about_object]
    for turn in range(3 * sentences):
        if len(parts) >= sentences:
            break
        text = kinds[turn % len(kinds)](rng.choice(composer.facts))
        if text is not None:
            parts.append(text)
    body = parts[1:]
    rng.shuffle(body)
    return join([*([lead] if lead else []), parts[0], *body])


def article(knowledge: Knowledge, subject: str) -> dict[str, str]:
    """Return the subject's article in the file: the same facts give the same text."""
    text = compose(knowledge, subject, random.Random(derive_seed("article", subject)))
    return {"id": subject, "title": knowledge.label[subject], "text": text.text}


def write_articles(data: Path) -> int:
    """Write all articles, and the triples that lead to them; return how many there are."""
    knowledge = read_knowledge(data)
    subjects = sorted({fact.subject for fact in knowledge.facts}, key=lambda entity: int(entity[1:]))
    write_jsonl(data / "articles/articles.jsonl", (article(knowledge, subject) for subject in subjects))
    records = {relation: [it for it in knowledge.records if it.relation == relation] for relation in RELATIONS}
    write_slice(Slice(list(knowledge.facts), records), knowledge.label, data)
    return len(subjects)


def main() -> None:
    """Write the articles of the data folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder (%(default)s)")
    write_articles(parser.parse_args().data)


if __name__ == "__main__":
    main()
