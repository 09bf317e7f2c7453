"""How readable a model's texts are: the share of words that its world does not have, and of repeated sentences."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from counterfact.core.prompts import fill
from counterfact.core.seeds import derive_seed
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM
from world.corpus import Corpus
from world.knowledge import Knowledge

TEXTS = 300
ARTICLES = 15_000
"""Articles that are composed to learn the words of the world: each of its subjects some four times."""
WORD = re.compile(r"""[^\s.,;:!?()"]+""")


class Readability(NamedTuple):
    """Shares, of all words and of all sentences."""

    garbled: float
    """Words that stand in no article and no label."""
    repeated: float
    """Sentences that stand in the same text before."""


def world_words(knowledge: Knowledge) -> set[str]:
    """Return every word of the labels and of many articles."""
    words = {word for label in knowledge.label.values() for word in WORD.findall(label)}
    for document in islice(Corpus(knowledge, derive_seed("words")).articles(), ARTICLES):
        words.update(WORD.findall(document.text.text))
    return words


def judge(texts: Sequence[str], words: set[str]) -> Readability:
    """Measure texts; the last sentence of each, which is cut off, does not count.

    >>> judge(["A cat sat. A cat sat. A czt sat. And th"], {"A", "cat", "sat", "And"})
    Readability(garbled=0.1111111111111111, repeated=0.3333333333333333)
    """
    sentences = [text.split(". ")[:-1] for text in texts]
    found = [word for text in sentences for sentence in text for word in WORD.findall(sentence)]
    count = sum(map(len, sentences))
    return Readability(
        sum(word not in words for word in found) / max(1, len(found)),
        (count - sum(len(set(text)) for text in sentences)) / max(1, count),
    )


def sample(lm: LM, knowledge: Knowledge, prompts: Mapping[str, Sequence[str]]) -> list[str]:
    """Generate texts of 100 tokens about random facts that may be edited.

    Args:
        lm: the model.
        knowledge: the facts.
        prompts: what texts begin with, of each relation.
    """
    rng = random.Random(derive_seed("readability"))
    facts = rng.sample(knowledge.records, min(TEXTS, len(knowledge.records)))
    filled = [fill(rng.choice(prompts[fact.relation]), knowledge.label[fact.subject]) for fact in facts]
    return [it.text for it in generate(lm, filled, list(range(len(filled)))) if isinstance(it, Generation)]
