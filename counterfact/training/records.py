"""Examples of records: their requests as edits, in the words of their prompt and of their paraphrases."""

from collections import Counter
from random import Random
from typing import Any, NamedTuple

from counterfact.contracts.benchmarks import Lesson
from counterfact.contracts.datasets import Dataset
from counterfact.core.errors import BadInput
from counterfact.core.records import BadRecord, Record, Request
from counterfact.core.seeds import derive_seed
from counterfact.editing.networks import NetworkSettings
from counterfact.lm.model.language_model import LM
from counterfact.training.examples import VALIDATION, Example
from counterfact.training.texts import Windows

OTHER_WORDS = 0.5
"""Share of the examples whose outer text is a paraphrase, where there is one; the rest repeats the edit."""
FACTS = 0.5
"""Share of the locality texts that are facts of other records, where plain texts are used too."""


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
        if dataset.benchmark.lesson is None:
            raise BadInput(f"{dataset.label}: hypernetworks cannot be trained on {dataset.benchmark.title}")
        self._lesson = dataset.benchmark.lesson
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
            learned = self._lesson(record)
        except ValueError as error:
            self.dropped[str(error)] += 1
            return None
        try:
            item = _tokens(lm, learned, record.request)
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


def _tokens(lm: LM, lesson: Lesson, request: Request) -> Item:
    answer = lm.target_tokens(lesson.true or lesson.target, request.joiner)
    prompt = lm.prompt_tokens(request.filled)
    return Item(
        case_id=request.id,
        request=(request.prompt, request.subject),
        subject=request.subject,
        prompt=prompt,
        paraphrases=lm.encoding.prompts(lesson.paraphrases),
        target=lm.target_tokens(lesson.target, request.joiner),
        fact=prompt + answer,
        neighborhood=[ids + answer for ids in lm.encoding.prompts(lesson.neighborhood)],
    )
