"""Read what the world can say of each relation: templates, questions, article sentences and openings of them.

Every form is turned into one notation with named slots: `{s}` the subject, `{o}` the object, `{a}` and `{b}` other
subjects of the same object. ParaRel's `[X] grew up speaking [Y].` becomes `{s} grew up speaking {o}.`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, read_jsonl
from counterfact.core.seeds import derive_seed

SLOTS = ("{s}", "{o}", "{a}", "{b}")


class Mention(NamedTuple):
    """Where a text names an entity: characters `start` to `end`, in which slot, and its Q-id."""

    start: int
    end: int
    slot: str
    entity: str


class Text(NamedTuple):
    """A text that knows where its entities stand."""

    text: str
    mentions: tuple[Mention, ...] = ()


def write(form: str, entities: Mapping[str, str], label: Mapping[str, str]) -> Text:
    """Fill the slots of `form`.

    Args:
        form: a sentence with slots.
        entities: slot letter -> Q-id.
        label: Q-id -> label.

    >>> write("{s} is near {o}.", {"s": "Q1", "o": "Q2"}, {"Q1": "Ulm", "Q2": "Bonn"}).mentions
    (Mention(start=0, end=3, slot='s', entity='Q1'), Mention(start=12, end=16, slot='o', entity='Q2'))
    """
    text, mentions, rest = "", [], form
    while rest:
        head, brace, tail = rest.partition("{")
        text += head
        if not brace:
            break
        slot, _, rest = tail.partition("}")
        name = label[entities[slot]]
        mentions.append(Mention(len(text), len(text) + len(name), slot, entities[slot]))
        text += name
    return Text(text, tuple(mentions))


def join(texts: list[Text], separator: str = " ") -> Text:
    """Put texts one after another; their mentions move along."""
    text, mentions = "", []
    for position, part in enumerate(texts):
        text += separator if position else ""
        mentions += [m._replace(start=m.start + len(text), end=m.end + len(text)) for m in part.mentions]
        text += part.text
    return Text(text, tuple(mentions))


def excerpt(text: Text, start: int, end: int) -> Text:
    """Return the characters from `start` to `end`, with the mentions that lie wholly within.

    >>> excerpt(Text("in Bonn or Ulm", (Mention(3, 7, "o", "Q1"), Mention(11, 14, "s", "Q2"))), 8, 14)
    Text(text='or Ulm', mentions=(Mention(start=3, end=6, slot='s', entity='Q2'),))
    """
    kept = [m for m in text.mentions if start <= m.start and m.end <= end]
    return Text(text.text[start:end], tuple(m._replace(start=m.start - start, end=m.end - start) for m in kept))


@dataclass(frozen=True)
class Language:
    """The forms of one relation, in the notation of slots."""

    relation: str
    templates: tuple[str, ...]
    """ParaRel's templates; those that end in the object come first."""
    questions: tuple[str, ...]
    facts: tuple[str, ...]
    """Article sentences that state the fact."""
    also: tuple[str, ...]
    """Article sentences that name another subject of the same object."""
    openings: tuple[str, ...]
    """Openings of sentences about the subject, with `{}` for it, which the grammar goes on from."""
    continuations: tuple[tuple[str, ...], ...]
    """For each opening of the grammar, the opening with each of its continuations."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The templates that end in the object, cut in front of it."""
        return tuple(template.removesuffix(" {o}.") for template in self.templates if template.endswith(" {o}."))

    @property
    def never(self) -> int:
        """The index of the template that is never trained: one of those that end in the object."""
        return derive_seed("never trained", self.relation) % len(self.prompts)

    def held_out(self, subject: str) -> frozenset[int]:
        """Return the indices of the two templates that are never trained with this subject (Q-id)."""
        order = [index for index in range(len(self.prompts)) if index != self.never]
        order.sort(key=lambda index: derive_seed("held out", self.relation, subject, index))
        return frozenset(order[:2])

    def seen(self, subject: str) -> list[str]:
        """Return the templates that may be trained with this subject."""
        unseen = self.held_out(subject) | {self.never}
        return [template for index, template in enumerate(self.templates) if index not in unseen]


def read_language(data: Path, relation: str) -> Language:
    """Read the forms of one relation from the data folder.

    Raises:
        BadInput: a file is missing, or a form has a slot that it should not have.
    """
    patterns = [line["pattern"] for line in read_jsonl(data / f"pararel/pattern_data/graphs_json/{relation}.jsonl")]
    templates = [pattern.replace("[X]", "{s}").replace("[Y]", "{o}") for pattern in patterns]
    templates.sort(key=lambda template: not template.endswith(" {o}."))
    grammar = read_json(data / f"articles/grammar/{relation}.json")
    continuations = tuple(
        tuple(_prompted(prompt.replace("{}", "{s}"), end) for end in ends)
        for prompt, ends in grammar["continuations"].items()
    )
    language = Language(
        relation=relation,
        templates=tuple(templates),
        questions=tuple(line.replace("{}", "{s}") for line in _lines(data / f"zsre/questions/{relation}.txt")),
        facts=tuple(grammar["fact"]),
        also=tuple(grammar["also"]),
        openings=tuple(grammar["continuations"]),
        continuations=continuations,
    )
    _check(language)
    return language


def _prompted(prompt: str, end: str) -> str:
    """Join a prompt and its continuation, with a space unless a comma or the like follows."""
    return prompt + ("" if end[:1] in ",.;:" else " ") + end


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}") from error


def _check(language: Language) -> None:
    forms = [*language.templates, *language.questions, *language.facts, *language.also]
    for form in [*forms, *(form for forms in language.continuations for form in forms)]:
        bare = form
        for slot in SLOTS:
            bare = bare.replace(slot, "")
        if "{" in bare or "}" in bare:
            raise BadInput(f"{language.relation}: expected only the slots {' '.join(SLOTS)}, got {form!r}")
