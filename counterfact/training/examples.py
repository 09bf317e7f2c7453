"""What a hypernetwork is trained on: edits, the same edits in other words, and texts that must stay as they are.

Everything drawn depends on the seed and the number of the example, never on what was drawn before: a training that
is resumed sees what an uninterrupted one sees.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

from counterfact.core.seeds import derive_seed

VALIDATION = 0.1
"""Share of the subjects, or of the texts, that is kept for validation."""


class Example(NamedTuple):
    """Tokens of one training example.

    Attributes:
        edit: the text that is edited in; its labels are its last tokens.
        outer: the same in other words, with the same labels.
        labels: how many of the last tokens of both are labels.
        locality: a text whose distribution must stay.
    """

    edit: list[int]
    outer: list[int]
    labels: int
    locality: list[int]


class Source(Protocol):
    """Where examples come from."""

    @property
    def train(self) -> Sequence[Any]:
        """Items to train on."""

    @property
    def validation(self) -> Sequence[Any]:
        """Items that are not trained on."""

    def example(self, item: Any, rng: Random, *, validation: bool = False) -> Example:
        """Make an example of one of the items; whatever else it draws on is of the same side of the division."""

    def describe(self) -> dict[str, Any]:
        """Say what it is made of, for the record: names, hashes, counts, what was left out and why."""


class Sampler:
    """Training examples by their number: every item once in a round, in an order of the round's own.

    Args:
        source: of the examples.
        seed: of the training.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed
        self._turn, self._order = -1, list[int]()

    def example(self, number: int) -> Example:
        """Return example `number`, from 0."""
        turn, place = divmod(number, len(self.source.train))
        if turn != self._turn:
            count = len(self.source.train)
            self._turn, self._order = turn, Random(derive_seed("order", self.seed, turn)).sample(range(count), count)
        rng = Random(derive_seed("example", self.seed, number))
        return self.source.example(self.source.train[self._order[place]], rng)


def validation_examples(source: Source, most: int, seed: int) -> list[Example]:
    """Return the examples of every validation, always the same."""
    items = source.validation[:most]
    rngs = (Random(derive_seed("validation", seed, place)) for place in range(len(items)))
    return [source.example(item, rng, validation=True) for item, rng in zip(items, rngs, strict=True)]
