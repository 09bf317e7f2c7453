"""What a reader sees in names, in the sentences before paraphrases, and in how templates end."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from ..sources.labels import clean_label

LONGEST_NAME = 12
"""Words of the longest name that is not odd."""
_NO_END = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Z]|St|Mr|Mrs|Ms|Dr|Prof|No|vs|Jr|Sr|Gen|Col|Lt|Capt|Mt|Ft|ca|c|e\.g|i\.e)\.$"
)
_ENDED = re.compile(r"[.!?…][\"'”’)\]]*$")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+")
_ARTICLE = re.compile(r"(?<!,)\s(the)$")
_NOUN_WANTED = re.compile(r"\s(an?)$")
_WITH_THE = frozenset({"P31", "P39", "P106", "P138", "P279", "P361", "P413", "P463", "P527", "P1001", "P1303"})
"""Relations whose objects may take "the": somebody plays the guitar and belongs to the Royal Society."""
_NO_NOUN = frozenset({"P101", "P103", "P136", "P140", "P364", "P407", "P1303", "P1412"})
"""Relations whose objects are not what the subject is: nobody "is a guitar"."""
_PLACE_WANTED = re.compile(r"\bplay(?:s|ed|ing)? in$")


def odd_label(label: str) -> str | None:
    """Return why a label is odd as a name in an English sentence, or None.

    >>> odd_label("The Wall (film)"), odd_label("Москва"), odd_label("Zoë Ölm")
    ('is not clean', 'letters that are not Latin', None)
    """
    if clean_label(label) != label:
        return "is not clean"
    if not_latin(label):
        return "letters that are not Latin"
    if not any(letter.isalnum() for letter in label):
        return "no letter"
    if len(label.split()) > LONGEST_NAME:
        return f"more than {LONGEST_NAME} words"
    return "punctuation at an end" if label[0] in ",;:-–)]" or label[-1] in ",;:-–([" else None


def not_latin(text: str) -> bool:
    """Tell whether a text has a letter of another script than Latin."""
    return not text.isascii() and any(map(_foreign, set(text)))


@lru_cache(maxsize=4096)
def _foreign(letter: str) -> bool:
    name = unicodedata.name(letter, "")
    return letter.isalpha() and not name.startswith("LATIN") and not name.startswith(("MODIFIER", "FEMININE", "MASC"))


def cut_context(prompt: str, bare: Iterable[str]) -> str | None:
    """Return how the text before a prompt is cut, or None.

    Args:
        prompt: the whole, with the text before it.
        bare: what prompts about the subject are without such a text; the longest that the prompt ends in counts.
    """
    own = max((one for one in bare if prompt.endswith(one)), key=len, default=None)
    before = prompt[: -len(own)].strip() if own else ""
    if own is not None and not before:
        return None
    if own is None:
        # Of a text whose end is not known, the start alone can be judged.
        return "starts inside a sentence" if _starts_inside(prompt) else None
    if _starts_inside(before):
        return "starts inside a sentence"
    if _NO_END.search(before):
        return "ends in an abbreviation"
    return None if _ENDED.search(before) else "ends inside a sentence"


def _starts_inside(text: str) -> bool:
    return text[:1].islower() or text[:1] in ",;:)."


def bad_ending(prompt: str, relation: str | None) -> str | None:
    """Return the end of a prompt that reads falsely before an object of the relation, or None.

    An article wants a noun after it, which names and languages are not ("used the French"), and "plays in" a place.

    >>> bad_ending("Ann used the", "P1412"), bad_ending("Bo is a", "P1303"), bad_ending("Cy is a", "P106")
    ('used the', 'is a', None)
    """
    falsely = (
        (relation not in _WITH_THE and _ARTICLE.search(prompt))
        or (relation in _NO_NOUN and _NOUN_WANTED.search(prompt))
        or (relation == "P413" and _PLACE_WANTED.search(prompt))
    )
    return " ".join(prompt.split()[-2:]) if falsely else None


class Templates:
    """Templates of each relation, as its records show them: their own, and what their paraphrases end in."""

    def __init__(self, records: Sequence[CounterFactRecord]) -> None:
        found: defaultdict[str | None, dict[str, None]] = defaultdict(dict)
        for record in records:
            rewrite = record.requested_rewrite
            found[rewrite.relation_id][rewrite.prompt] = None
        self._own: Mapping[str | None, Sequence[str]] = {relation: list(ones) for relation, ones in found.items()}
        for record in records:
            rewrite = record.requested_rewrite
            for prompt in record.paraphrase_prompts:
                last = _SENTENCE.split(prompt)[-1]
                if last.count(rewrite.subject) == 1:
                    found[rewrite.relation_id][last.replace(rewrite.subject, "{}")] = None
        self._all = {
            relation: sorted(
                ((before, after) for before, _, after in (one.partition("{}") for one in ones) if before or after),
                key=lambda ends: -len("".join(ends)),
            )
            for relation, ones in found.items()
        }

    def bare(self, record: CounterFactRecord) -> Iterator[str]:
        """Yield what prompts about a record's subject are without a text before them."""
        rewrite = record.requested_rewrite
        yield from (fill(template, rewrite.subject) for template in self._own[rewrite.relation_id] if "{}" in template)

    def name_in(self, prompt: str, relation: str | None) -> str | None:
        """Return whom a prompt is about, by the template with the most words that it has, or None."""
        for before, after in self._all[relation]:
            end = len(prompt) - len(after)
            if end > len(before) and prompt.startswith(before) and prompt.endswith(after):
                return " ".join(prompt[len(before) : end].split())
        return None
