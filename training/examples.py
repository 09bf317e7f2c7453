"""What a hypernetwork is trained on: edits, the same edits in other words, and texts that must stay as they are.

Everything drawn depends on the seed and the number of the example, never on what was drawn before: a training that
is gone on with sees what an uninterrupted one sees.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, NamedTuple, Protocol

from core.datasets import Dataset
from core.errors import BadInput
from core.records import BadRecord, CounterFactRecord, Record
from core.seeds import derive_seed
from core.texts import TextSource
from editors.networks import NetworkSettings, Task
from lm.loading import LM

VALIDATION = 0.1
"""Share of the subjects, or of the texts, that is kept for validation."""
OTHER_WORDS = 0.5
"""Share of the examples whose outer text is a paraphrase, where there is one; the rest repeats the edit."""
FOREIGN_TAIL = 0.5
"""Share of plain texts whose labels are the end of another text: those that a model would not write by itself."""
FACTS = 0.5
"""Share of the locality texts that are facts of other records, where plain texts are used too."""


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


class Item(NamedTuple):
    """A record in tokens: prompts without their targets."""

    case_id: int
    request: tuple[str, str]
    subject: str
    prompt: list[int]
    paraphrases: list[list[int]]
    target: list[int]
    fact: list[int]
    """A true sentence: prompt and true target."""
    neighborhood: list[list[int]]
    """Prompts of other subjects with the true target."""


class Records:
    """Training on records: edits are their requests, in the words of their prompt and of their paraphrases.

    Args:
        lm: the model.
        dataset: CounterFact or zsRE records. Of CounterFact the first `reserved` are for evaluation: neither they nor
            any record of a subject among them is trained on.
        reserved: how many.
        settings: how many labels an edit has.
        locality: `facts`: of other records, and plain texts if there are `windows`; `neighbors`: the record's own
            neighborhood.
        windows: plain texts.
        seed: divides subjects into those trained on and those validated on.

    Raises:
        BadInput: no records are left to train on.
    """

    def __init__(
        self,
        lm: LM,
        dataset: Dataset,
        reserved: int,
        settings: NetworkSettings,
        locality: str,
        windows: Windows | None,
        seed: int,
    ) -> None:
        self.dataset, self.locality, self.windows = dataset, locality, windows
        self.labels = settings.record_labels
        self.reserved = min(reserved, len(dataset.records))
        self.dropped: Counter[str] = Counter()
        first = [it for it in dataset.records[: self.reserved] if not isinstance(it, BadRecord)]
        self.kept_out = {record.request.subject for record in first}
        items = [item for record in dataset.records[self.reserved :] if (item := self._item(lm, record)) is not None]
        subjects = sorted({item.subject for item in items})
        held = set(Random(derive_seed("validation", seed)).sample(subjects, int(len(subjects) * VALIDATION)))
        self.train = [item for item in items if item.subject not in held]
        self.validation = [item for item in items if item.subject in held]
        if not self.train or not self.validation:
            raise BadInput(
                f"{dataset.label}: {len(items)} records are left to train on after the first {self.reserved}, which "
                f"are for evaluation, and what was dropped: {dict(self.dropped)}; reserve fewer, or build more records"
            )

    def example(self, item: Item, rng: Random, *, validation: bool = False) -> Example:
        """Make an example of a record."""
        target = item.target
        prompt = rng.choice(item.paraphrases) if item.paraphrases and rng.random() < OTHER_WORDS else item.prompt
        labels = min(len(target), self.labels) if self.labels else len(target)
        return Example(item.prompt + target, prompt + target, labels, self._locality(item, rng, validation=validation))

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        everything = [*self.train, *self.validation]
        return {
            "dataset": {key: getattr(self.dataset, key) for key in ("name", "version", "kind", "content_hash")},
            "texts": None if self.windows is None else self.windows.describe(),
            "reserved": self.reserved,
            "dropped": dict(sorted(self.dropped.items())),
            "record_ids": [item.case_id for item in everything],
            "requests": sorted(item.request for item in everything),
        }

    def _locality(self, item: Item, rng: Random, *, validation: bool) -> list[int]:
        if self.locality == "neighbors":
            return rng.choice(item.neighborhood)
        if self.windows is not None and rng.random() >= FACTS:
            return self.windows.locality_text(rng, validation=validation)
        items = self.validation if validation else self.train
        place = rng.randrange(len(items))
        if items[place].subject == item.subject:
            place = (place + 1) % len(items)
        return items[place].fact

    def _item(self, lm: LM, record: Record | BadRecord) -> Item | None:
        if isinstance(record, BadRecord):
            self.dropped["cannot be read"] += 1
            return None
        if record.request.subject in self.kept_out:
            self.dropped["its subject is evaluated on"] += 1
            return None
        try:
            item = _tokens(lm, record)
        except ValueError:
            self.dropped["cannot be encoded"] += 1
            return None
        room = lm.max_length - max(len(item.target), len(item.fact) - len(item.prompt))
        if len(item.prompt) > room:
            self.dropped["too long for the model"] += 1
            return None
        fitting = [ids for ids in item.paraphrases if len(ids) <= room]
        near = [ids for ids in item.neighborhood if len(ids) <= lm.max_length]
        item = item._replace(paraphrases=fitting, neighborhood=near)
        if self.locality == "neighbors" and not item.neighborhood:
            self.dropped["has no neighborhood"] += 1
            return None
        return item


def _tokens(lm: LM, record: Record) -> Item:
    request = record.request
    target, true = request.target_new, request.target_true
    if isinstance(record, CounterFactRecord):
        paraphrases, neighborhood = record.paraphrase_prompts, record.neighborhood_prompts
    else:
        target, true = record.alt or record.answers[0], record.answers[0]
        paraphrases, neighborhood = [record.rephrase], []
    answer = lm.target_tokens(true or target)
    prompt = lm.prompt_tokens(request.filled)
    return Item(
        case_id=request.id,
        request=(request.prompt, request.subject),
        subject=request.subject,
        prompt=prompt,
        paraphrases=lm.encoding.prompts(paraphrases),
        target=lm.target_tokens(target),
        fact=prompt + answer,
        neighborhood=[ids + answer for ids in lm.encoding.prompts(neighborhood)],
    )


def open_source(
    lm: LM,
    task: Task,
    settings: NetworkSettings,
    *,
    dataset: Dataset | None,
    texts: TextSource | None,
    max_texts: int | None = None,
    reserved: int = 0,
    seed: int = 0,
) -> Source:
    """Return the examples of a task.

    Args:
        lm: the model.
        task: what to train for.
        settings: lengths and labels.
        dataset: records, for every task but `text`.
        texts: plain texts: what `text` is trained on, and half of the locality of `counterfact`.
        max_texts: how many of them.
        reserved: records at the start of a CounterFact data set that are for evaluation.
        seed: of the training.

    Raises:
        BadInput: what the task needs is missing, or of the wrong kind.
    """
    if texts is None and task in {"text", "counterfact"}:
        raise BadInput(f"training for {task!r} needs plain texts")
    needs_texts = texts is not None and task in {"text", "counterfact"}
    windows = (
        Windows(lm, texts, settings.text_tokens, settings.locality_tokens, max_texts)
        if texts is not None and needs_texts
        else None
    )
    if task == "text":
        fewest, most = settings.fewest_text_labels, settings.most_text_labels
        if windows is None or not fewest <= most < settings.text_tokens:
            raise BadInput(f"expected fewest <= most < {settings.text_tokens} text labels, got {fewest} and {most}")
        return Texts(windows, fewest, most)
    kind = "zsre" if task == "zsre" else "counterfact"
    if dataset is None or dataset.kind != kind:
        raise BadInput(f"training for {task!r} needs {kind} records, got {dataset.kind if dataset else 'none'}")
    locality = "neighbors" if task == "neighbors" else "facts"
    return Records(lm, dataset, 0 if kind == "zsre" else reserved, settings, locality, windows, seed)
