"""What factlm reads: an endless, seeded stream of fact sentences, questions and articles.

A fact is met in the templates that its subject may be seen with, in question forms, and in articles composed anew each
time. Withheld facts and held-out (subject, template) pairs never occur.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from counterfact.core.seeds import derive_seed
from world.articles import Composer, compose
from world.knowledge import Knowledge
from world.language import Text, excerpt, join, write
from world.table import Fact
from world.zsre import locality_form

MANY_WORDS = 7


class Document(NamedTuple):
    """A training document.

    Attributes:
        text: the text and its mentions.
        target: index of the mention that is the object to learn; None where it stands before the subject, from which
            nobody could tell it, and in articles.
        article: whether it is an article rather than a single fact.
        prefixed: whether unrelated words stand before the fact; then only its object is learned, as what went before
            does not foretell the rest.
    """

    text: Text
    target: int | None
    article: bool = False
    prefixed: bool = False


@dataclass(frozen=True)
class Mix:
    """How often a fact is met in which form; shares of fact documents."""

    question: float = 0.18
    """As a question and its answer."""
    locality: float = 0.08
    """As a question in the style of Natural Questions."""
    sentence: float = 0.15
    """As a sentence of the articles."""
    prefix: float = 0.5
    """After an unrelated sentence or the end of one."""
    followed: float = 0.1
    """Followed by a sentence that goes on about the subject."""


class Corpus:
    """The stream of training documents.

    Args:
        knowledge: facts and forms.
        seed: of everything drawn.
        mix: shares of the forms.
    """

    def __init__(self, knowledge: Knowledge, seed: int, mix: Mix | None = None) -> None:
        self.knowledge = knowledge
        self.mix = mix or Mix()
        self.rng = random.Random(derive_seed("corpus", seed))
        self.subjects = sorted(knowledge.of_subject)

    def facts(self) -> Iterator[Document]:
        """Yield fact documents for ever, each fact once in a round."""
        while True:
            yield from map(self.fact_document, self.rng.sample(self.knowledge.facts, len(self.knowledge.facts)))

    def articles(self) -> Iterator[Document]:
        """Yield articles for ever, each subject once in a round."""
        while True:
            for subject in self.rng.sample(self.subjects, len(self.subjects)):
                yield Document(compose(self.knowledge, subject, self.rng), None, article=True)

    def fact_document(self, fact: Fact) -> Document:
        """Write a fact in one of its forms, perhaps between other sentences."""
        form = self.form(fact)
        text = write(form, {"s": fact.subject, "o": fact.object}, self.knowledge.label)
        slots = [mention.slot for mention in text.mentions]
        target = slots.index("o") if slots.index("s") < slots.index("o") else None
        if target is not None and form.endswith("{o}.") and self.rng.random() < self.mix.prefix:
            before = self.prefix()
            return Document(join([before, text]), target + len(before.mentions), prefixed=True)
        after = Composer(self.knowledge, fact.subject, self.rng).consequence(fact)
        follows = after is not None and self.rng.random() < self.mix.followed
        return Document(join([text, after]) if after and follows else text, target)

    def form(self, fact: Fact) -> str:
        """Choose a form that this subject may be seen with."""
        language = self.knowledge.languages[fact.relation]
        draw = self.rng.random()
        if draw < self.mix.question:
            return self.rng.choice(language.questions) + " {o}"
        if draw < self.mix.question + self.mix.locality:
            return locality_form(self.rng.choice(language.questions)) + " {o}"
        if draw < self.mix.question + self.mix.locality + self.mix.sentence:
            return self.rng.choice(language.facts)
        return self.rng.choice(language.seen(fact.subject))

    def prefix(self) -> Text:
        """Write a sentence about somebody else, or the end of one, or its first words and a full stop."""
        composer = Composer(self.knowledge, self.rng.choice(self.subjects), self.rng)
        kind = self.rng.choice([composer.fact, composer.consequence])
        whole = kind(composer.facts[0]) or Text("")
        spaces = [index for index, letter in enumerate(whole.text) if letter == " "]
        if len(spaces) < MANY_WORDS:
            return whole
        cut = self.rng.random()
        if cut < 1 / 3:
            return excerpt(whole, self.rng.choice(spaces[: 1 - MANY_WORDS]) + 1, len(whole.text))
        if cut < 2 / 3:
            head = excerpt(whole, 0, self.rng.choice(spaces[1:MANY_WORDS]))
            return head._replace(text=head.text + ".")
        return whole
