"""Examples of plain text: windows of tokens, for stock training and for the locality of other tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.texts import TextSource
from counterfact.lm.model.language_model import LM
from counterfact.training.examples import VALIDATION, Example

FOREIGN_TAIL = 0.5
"""Share of plain texts whose labels are the end of another text: those that a model would not write by itself."""


class Windows:
    """Plain texts as windows of tokens.

    Args:
        lm: the model whose tokens they are.
        texts: where they come from.
        size: tokens of a window; shorter texts are left out.
        locality: the most tokens of a locality text.
        most: texts to read; `None`: all.
    """

    def __init__(self, lm: LM, texts: TextSource, size: int, locality: int, most: int | None) -> None:
        self.texts, self.size, self.locality = texts, size, locality
        self.read = [lm.prompt_tokens(text) for text in islice(texts.texts(), most)]
        self.read = [ids[: lm.max_length] for ids in self.read if len(ids) >= size]
        if len(self.read) < 1 / VALIDATION:
            raise BadInput(f"{texts.name} holds {len(self.read)} texts of {size} tokens or more; expected 10 at least")

    @property
    def train(self) -> list[list[int]]:
        """Texts to train on."""
        return self.read[: -max(1, int(len(self.read) * VALIDATION))]

    @property
    def validation(self) -> list[list[int]]:
        """Texts that are not trained on."""
        return self.read[len(self.train) :]

    def window(self, rng: Random, *, validation: bool) -> list[int]:
        """Return a window of `size` tokens of any text."""
        return self.cut(rng.choice(self.validation if validation else self.train), self.size, rng)

    def locality_text(self, rng: Random, *, validation: bool) -> list[int]:
        """Return up to `locality` tokens of any text."""
        return self.cut(rng.choice(self.validation if validation else self.train), self.locality, rng)

    def cut(self, ids: list[int], size: int, rng: Random) -> list[int]:
        """Return `size` tokens of a text from a random place, or all of them."""
        start = rng.randrange(max(1, len(ids) - size + 1))
        return ids[start : start + size]

    def describe(self) -> dict[str, Any]:
        """Name, hash and number of texts."""
        return {"name": self.texts.name, "content_hash": self.texts.content_hash, "texts": len(self.read)}


@dataclass(frozen=True)
class Texts:
    """Stock training, on plain text alone: the labels are the last tokens of a window."""

    windows: Windows
    fewest: int
    most: int

    @property
    def train(self) -> Sequence[list[int]]:
        """Texts."""
        return self.windows.train

    @property
    def validation(self) -> Sequence[list[int]]:
        """Texts."""
        return self.windows.validation

    def example(self, item: list[int], rng: Random, *, validation: bool = False) -> Example:
        """Cut a window, perhaps give it a foreign tail; outer is the window without some of its first tokens."""
        windows = self.windows
        edit = windows.cut(item, windows.size, rng)
        labels = rng.randint(self.fewest, self.most)
        if rng.random() < FOREIGN_TAIL:
            edit = edit[:-labels] + windows.window(rng, validation=validation)[-labels:]
        outer = edit[rng.randint(0, (len(edit) - labels) // 2) :]
        return Example(edit, outer, labels, windows.locality_text(rng, validation=validation))

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        return {"texts": self.windows.describe(), "record_ids": [], "requests": []}
