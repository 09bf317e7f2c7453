"""Sentences before paraphrase prompts: in the released CounterFact, a random sentence on something else."""

from collections.abc import Sequence
from itertools import islice
from random import Random

from counterfact.core.texts import TextSource

from ..sources.articles import Passage, split

_TRIES = 1000
_POOL = 200_000


class Contexts:
    """A pool of sentences to draw from; without one, nothing is put before a prompt.

    Args:
        sentences: the pool, in a fixed order; None for no contexts.
        longest: most words of a sentence; 0 for any number.
    """

    def __init__(self, sentences: Sequence[Passage] | None, longest: int = 0) -> None:
        pool = [one for one in sentences or () if not longest or len(one.text.split()) <= longest]
        self._texts = None if sentences is None else [sentence.text for sentence in pool]
        self._searched = [f"{sentence.name}\n{sentence.text}".casefold() for sentence in pool]

    def draw(self, count: int, labels: Sequence[str], random: Random) -> list[str] | None:
        """Draw different sentences, each followed by a space, that name none of the labels, nor does their article.

        Returns:
            the contexts, or None where the pool seems to hold too few.
        """
        if self._texts is None:
            return [""] * count
        named = [label.casefold() for label in labels]
        chosen: list[int] = []
        for _ in range(_TRIES if self._texts else 0):
            if len(chosen) == count:
                break
            index = random.randrange(len(self._texts))
            if index not in chosen and not any(label in self._searched[index] for label in named):
                chosen.append(index)
        return [f"{self._texts[index]} " for index in chosen] if len(chosen) == count else None


def sentences_of(texts: TextSource) -> list[Passage]:
    """Return the sentences of plain texts that can stand alone, each once, in their order; of very many the first."""
    found = (sentence for text in texts.texts() for sentence in split(text))
    return [Passage("", sentence) for sentence in islice(dict.fromkeys(islice(found, 2 * _POOL)), _POOL)]
