"""ParaRel's tuples and templates, in its own file format.

Elazar et al. Measuring and Improving Consistency in Pretrained Language Models. TACL 2021.
https://arxiv.org/abs/2102.01017. A folder holds `trex_lms_vocab/P*.jsonl` (tuples) and
`pattern_data/graphs_json/P*.jsonl` (patterns with `[X]` for the subject and `[Y]` for the object).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl

from .labels import clean_label

_BE = frozenset({"is", "are", "was", "were"})
_FINITE = _BE | {"has", "have", "had"}
_ARTICLES = frozenset({"a", "an", "the"})
_PREPOSITIONS = frozenset({"as", "at", "by", "for", "from", "in", "into", "of", "on", "to", "with"})
_ADJUNCTS = frozenset({"at", "by", "from", "in", "on"})
_EMPTY_WORDS = _FINITE | _ARTICLES | _PREPOSITIONS | {"and", "that", "which", "who"}
_LONGEST_CLOSING = 4

_NOT_WHOLE = "object ends no noun phrase"

Cutting = Literal["whole", "natural"]
"""What may be cut off after the object (see `cut_pattern`)."""


@dataclass(frozen=True)
class FactTuple:
    """One tuple (s, r, o_c) by its labels, which are cleaned where they are names."""

    relation: str
    uuid: str
    subject: str
    object: str
    line: int
    """Place in the relation's file, from 0."""
    written: tuple[str, str]
    """Labels of subject and object as the file has them."""
    ids: tuple[str, str] | None = None
    """Ids of subject and object, where a table has them."""

    @property
    def named(self) -> bool:
        """Whether both labels can stand in a prompt."""
        return None not in map(clean_label, self.written)


@dataclass(frozen=True)
class CutPattern:
    """A pattern cut at its object: a template with one `{}`, or the reason why it gives none."""

    template: str | None
    outcome: str


@dataclass(frozen=True)
class Relation:
    """Tuples and templates of one relation."""

    id: str
    tuples: tuple[FactTuple, ...]
    templates: tuple[str, ...]
    """Distinct templates in file order, those from elsewhere last."""
    decisions: tuple[tuple[str, CutPattern], ...]
    """What was decided about every pattern, in file order (see `cut_pattern`; `the same as another`)."""
    added: int = 0
    """Number of templates from elsewhere (see `top_up`)."""
    spare: tuple[str, ...] = ()
    """Templates from elsewhere for records that have too few neighborhood prompts without them."""

    @property
    def outcomes(self) -> dict[str, int]:
        """Outcome to the number of patterns."""
        return dict(sorted(Counter(cut.outcome for _, cut in self.decisions).items()))


def load_pararel(folder: Path, language: str = "en", cutting: Cutting = "natural") -> list[Relation]:
    """Read all relations of a folder that have tuples, by number.

    Args:
        folder: in ParaRel's layout.
        language: of its patterns; words after the object are cut off in English alone.
        cutting: which words may be cut off, as `cut_pattern` takes it.

    Raises:
        BadInput: the folder has no tuples, a line is not JSON or lacks a key; file and line are named.
    """
    files = sorted((folder / "trex_lms_vocab").glob("P*.jsonl"), key=lambda file: relation_number(file.stem))
    if not files:
        raise BadInput(
            f"no ParaRel at {folder}: expected trex_lms_vocab/P*.jsonl and pattern_data/graphs_json/P*.jsonl"
        )
    return [_load_relation(folder, file.stem, language, cutting) for file in files]


def load_relations(
    pararel: Path,
    templates: Path | None,
    language: str,
    names: Sequence[str] | None,
    fewest: int = 0,
    cutting: Cutting = "natural",
) -> list[Relation]:
    """Read the relations of a build, by number.

    Args:
        pararel: a folder in ParaRel's layout, of the language.
        templates: another one, whose templates top up relations that have too few; None for no others.
        language: language of the patterns.
        names: names of the relations; None for all that have tuples.
        fewest: templates that a record needs.
        cutting: which words after an object may be cut off, as `cut_pattern` takes it.

    Raises:
        BadInput: a folder is malformed, or a relation has no tuples.
    """
    relations = load_pararel(pararel, language, cutting)
    if names is not None:
        known = {relation.id: relation for relation in relations}
        if missing := sorted(set(names) - set(known)):
            raise BadInput(f"no tuples of {', '.join(missing)}. Known relations: {', '.join(known)}")
        relations = [relation for relation in relations if relation.id in names]
    if templates is None:
        return relations
    others = {relation.id: relation for relation in load_pararel(templates, language, cutting)}
    return [top_up(relation, others.get(relation.id), fewest) for relation in relations]


def language_folder(folder: Path, language: str) -> Path:
    """Return where a folder keeps its files in a language: English in itself, others in folders named by their code.

    Raises:
        BadInput: there are none.
    """
    if language == "en":
        return folder
    if not re.fullmatch("[a-z]{2,3}(-[a-z0-9]+)*", language):
        raise BadInput(f"expected the code of a language, such as de or zh-hans, got {language!r}")
    if not (inner := folder / language).is_dir():
        raise BadInput(f"{folder} has nothing in {language}: English ships with it; put other languages in {inner}")
    return inner


def top_up(relation: Relation, other: Relation | None, fewest: int) -> Relation:
    """Give a relation the templates of another collection that it lacks; what it does not need is spare.

    A relation with too few gets all of them; another one gets one for every pattern whose object does not end a noun
    phrase (which `cutting="whole"` drops).

    Args:
        relation: gets them.
        other: the same relation in the other collection, None where that lacks it; its tuples are passed over.
        fewest: templates that a record needs.
    """
    if other is None:
        return relation
    more = tuple(template for template in other.templates if template not in relation.templates)
    added = len(more) if len(relation.templates) < fewest else min(len(more), relation.outcomes.get(_NOT_WHOLE, 0))
    return replace(relation, templates=relation.templates + more[:added], added=added, spare=more[added:])


def relation_number(relation: str) -> int:
    """Return the number of a relation's or an entity's id, by which they are sorted.

    >>> relation_number("P103")
    103
    """
    if not re.fullmatch("[PQ][0-9]+", relation):
        raise BadInput(f"expected an id of WikiData such as P103, got {relation!r}")
    return int(relation[1:])


def pararel_files(folder: Path) -> dict[str, Path]:
    """Return the files that `load_pararel` reads, by their name inside the folder."""
    files = [*folder.glob("trex_lms_vocab/P*.jsonl"), *folder.glob("pattern_data/graphs_json/P*.jsonl")]
    return {file.relative_to(folder).as_posix(): file for file in sorted(files)}


def cut_pattern(pattern: str, language: str = "en", cutting: Cutting = "natural") -> CutPattern:
    """Cut a pattern at its object, so that the object follows where the prompt ends.

    `[Y]` counts as last when nothing but punctuation follows it. Where words follow (the closing) in English, `whole`
    cuts them off only if the object ends a noun phrase there, and what follows is a phrase of its own about the
    subject, which opens with at, by, from, in or on: "[X] is a [Y] by profession" gives "{} is a", and "[X] used the
    [Y] language" gives nothing, since "used the French" is not said. This is what CounterFact's authors kept.

    `natural` cuts wherever what is left can go on in some way; a pattern is dropped when

    * `[Y]` stands before `[X]`;
    * the closing hangs on the object ("[Y]-born", "[Y]'s honor"), so that the object is half a word;
    * the closing has more than four words, or one that is finite ("are twin cities"): it carries the meaning;
    * the words left say nothing ("[X] had [Y] as a first language": "[X] had");
    * the closing starts with a noun that the object describes, right after a form of "be", so that the object alone
      would be said of the subject ("The law of [X] is [Y] law").

    An article changes both: "[X] is a" says that a noun phrase on what the subject is goes on, and the object may be
    its noun ("[X] is a [Y] by profession") or describe it ("[X] is a [Y] player", "The language of [X] is the [Y]
    language"). CounterFact itself has such prompts: "{} is a", "{}, the".

    >>> cut_pattern("[X] was born in [Y] .")
    CutPattern(template='{} was born in', outcome='object last')
    >>> cut_pattern("[X] follows the [Y] religion.")
    CutPattern(template='{} follows the', outcome='closing cut off')
    >>> cut_pattern("[X] is a [Y] player.")
    CutPattern(template='{} is a', outcome='closing cut off')
    >>> cut_pattern("[X] is a [Y] player.", cutting="whole")
    CutPattern(template=None, outcome='object ends no noun phrase')
    >>> cut_pattern("[Y] is the capital of [X].")
    CutPattern(template=None, outcome='object before subject')
    """
    if pattern.count("[X]") != 1 or pattern.count("[Y]") != 1 or "{" in pattern or "}" in pattern:
        return CutPattern(None, "not one [X] and one [Y]")
    left, _, right = pattern.partition("[Y]")
    if "[X]" not in left:
        return CutPattern(None, "object before subject")
    template = " ".join(left.replace("[X]", "{}").split())
    if template == "{}":
        return CutPattern(None, "nothing between subject and object")
    if not (closing := _words(right)):
        return CutPattern(template, "object last")
    if language != "en":
        return CutPattern(None, "words after the object")
    if cutting == "whole":
        cut_off = right[0].isspace() and closing[0] in _ADJUNCTS
        return CutPattern(template, "closing cut off") if cut_off else CutPattern(None, _NOT_WHOLE)
    reason = _unnatural(_words(left.replace("[X]", "")), right, closing)
    return CutPattern(None, reason) if reason else CutPattern(template, "closing cut off")


def _unnatural(before: list[str], right: str, closing: list[str]) -> str | None:
    if not right[0].isspace():
        return "object inside a longer word"
    if len(closing) > _LONGEST_CLOSING or _FINITE.intersection(closing):
        return "meaning after the object"
    if _opens_a_noun_phrase(before):
        return None
    if all(word in _EMPTY_WORDS for word in before):
        return "nothing said before the object"
    if closing[0] not in _PREPOSITIONS and before[-1] in _BE:
        return "object describes the word after it"
    return None


def _opens_a_noun_phrase(before: list[str]) -> bool:
    return len(before) > 1 and before[-1] in _ARTICLES and before[-2] in _BE


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _load_relation(folder: Path, relation: str, language: str, cutting: Cutting) -> Relation:
    tuples = tuple(_read_tuples(folder / "trex_lms_vocab" / f"{relation}.jsonl", relation))
    path = folder / "pattern_data" / "graphs_json" / f"{relation}.jsonl"
    decisions: list[tuple[str, CutPattern]] = []
    templates: dict[str, None] = {}
    for value in read_jsonl(path) if path.exists() else ():
        pattern = _text(value, "pattern", path)
        cut = cut_pattern(pattern, language, cutting)
        if cut.template in templates:
            cut = replace(cut, outcome="the same as another")
        elif cut.template is not None:
            templates[cut.template] = None
        decisions.append((pattern, cut))
    return Relation(relation, tuples, tuple(templates), tuple(decisions))


def _read_tuples(path: Path, relation: str) -> Iterator[FactTuple]:
    for line, value in enumerate(read_jsonl(path)):
        subject, object, uuid = (_text(value, key, path) for key in ("sub_label", "obj_label", "uuid"))
        cleaned = (clean_label(subject) or subject, clean_label(object) or object)
        yield FactTuple(relation, uuid, *cleaned, line, (subject, object))


def _text(value: Any, key: str, path: Path) -> str:
    text = value.get(key) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{path}: expected a text under {key!r} in every line, got {value!r}")
    return text
