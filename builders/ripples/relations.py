"""Relations in words, and what holds between them: `data/relations/en.jsonl` (one a language) and `logic.jsonl`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.prompts import check_template
from counterfact.core.records import Border

from ..languages.grammar import Grammar
from ..sources.pararel import relation_number

LOGIC = "logic.jsonl"
_NO_WORDS = (LOGIC, "subject_kinds.jsonl")


class RelationWords(Border):
    """How a relation is asked about in one language."""

    relation: str
    ask: str
    """Prompt that the object follows: "The seat of government of {} is"."""
    phrase: str | None = None
    """Noun phrase for the object, put where a name stands in `ask`: "the capital of {}"."""


class Implication(Border):
    """(s, r, o) and (o, `joined`, z) give (s, `gives`, z), where r is the relation that has it."""

    joined: str = Field(alias="with")
    gives: str


class RelationLogic(Border):
    """What a relation has to do with others."""

    relation: str
    inverse: str | None = None
    """What leads back from the object, if to few subjects; itself, where the relation goes both ways."""
    many: bool = False
    """Whether a subject commonly has many objects, of which a source of facts may lack some."""
    implies: list[Implication] = Field(default=[])
    related: list[str] = Field(default=[])
    """Relations whose objects may depend on this one's, or this one's on theirs: said once for both."""


@dataclass(frozen=True)
class Relations:
    """Words and logic of relations."""

    words: Mapping[str, RelationWords]
    logic: Mapping[str, RelationLogic]
    apart: str
    """What excludes a name before a prompt: "Apart from {}, "."""
    grammar: Grammar
    """How names join sentences."""

    def ask(self, relation: str, subject: str) -> str:
        """Return the prompt about a subject, by its name or by a phrase for it."""
        return _sentence(self.grammar.fill(self.words[relation].ask, subject))

    def phrase(self, relation: str, subject: str) -> str | None:
        """Return the phrase for a subject's object, or None where the language has none."""
        words = self.words.get(relation)
        return None if words is None or words.phrase is None else self.grammar.fill(words.phrase, subject)

    def ask_apart_from(self, relation: str, subject: str, other: str) -> str:
        """Return the prompt about a subject that excludes one object."""
        ask = self.words[relation].ask
        lowered = ask if ask.startswith("{}") else ask[0].lower() + ask[1:]
        return self.grammar.fill(self.apart, other) + self.grammar.fill(lowered, subject)

    def inverse(self, relation: str) -> str | None:
        """Return the relation that leads back, where there is one."""
        return self.logic[relation].inverse if relation in self.logic else None

    def has_many(self, relation: str) -> bool:
        """Tell whether subjects commonly have many objects."""
        return relation in self.logic and self.logic[relation].many

    def implications(self, relation: str) -> list[Implication]:
        """Return what facts of a relation imply together with others."""
        return self.logic[relation].implies if relation in self.logic else []

    def may_depend(self, one: str, other: str) -> bool:
        """Tell whether the objects of two relations may depend on each other."""
        if one == other or self.inverse(one) == other or self.inverse(other) == one:
            return True
        given = {relation for each in (one, other) for relation in self._named_by(each)}
        return one in given or other in given

    def _named_by(self, relation: str) -> list[str]:
        logic = self.logic.get(relation)
        return [] if logic is None else [*logic.related, *(each.gives for each in logic.implies)]


def load_relations_in_words(folder: Path, language: str = "en", grammar: Grammar | None = None) -> Relations:
    """Read the relations of a folder in one language.

    Raises:
        BadInput: the language has no file there, or a line is malformed; the file is named.
    """
    path = folder / f"{language}.jsonl"
    if not path.exists():
        known = sorted(file.stem for file in folder.glob("*.jsonl") if file.name not in _NO_WORDS)
        raise BadInput(
            f"no words for relations in {language}: put them in {path}. There are some in {', '.join(known)}"
        )
    apart, words = "", {}
    try:
        for value in read_jsonl(path):
            if "apart" in value:
                apart = value["apart"]
                continue
            one = RelationWords.model_validate(value)
            for template in filter(None, (one.ask, one.phrase)):
                check_template(template)
            words[one.relation] = one
        logic = [RelationLogic.model_validate(value) for value in read_jsonl(folder / LOGIC)]
        check_template(apart)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from error
    ordered = {relation: words[relation] for relation in sorted(words, key=relation_number)}
    return Relations(ordered, {each.relation: each for each in logic}, apart, grammar or Grammar())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
