"""Find a subject in a text where the reading is certain, or say what stands in the way."""

import re
import unicodedata
from collections.abc import Callable

UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
"""Scripts, by the first words of their characters' names, whose words stand side by side, or take particles without a
space between."""
SHORT = 3
"""Letters of a subject that in other letter case may be another word, as US and us."""

Span = tuple[int, int]


def with_slot(text: str, subject: str) -> tuple[str, str]:
    """Put `{}` in a subject's place.

    The subject is looked for as it is written; else in another Unicode form, with underscores for spaces, or with other
    apostrophes or hyphens; else in other letter case. It must not be part of a longer word; in scripts without spaces,
    where no place stands free, any will do. Of several places the last is taken.

    Args:
        text: a prompt or a question.
        subject: whom or what it is about.

    Returns:
        The text with the slot, and the subject as the text has it: one put into the other is the text.

    Raises:
        ValueError: the subject is empty or is not there for certain; the message says what is there instead.

    >>> with_slot("where is lake_example?", "Lake Example")
    ('where is {}?', 'lake_example')
    """
    name = subject.strip()
    if not name:
        raise ValueError("the subject is empty")
    for fold in _FOLDS:
        if places := _places(text, name, fold):
            begin, end = places[-1]
            if fold is _any_case and len(name) <= SHORT:
                raise ValueError(
                    f"the subject {name!r} stands in other letter case, as {text[begin:end]!r}, which may be another "
                    f"word, in {text!r}"
                )
            return f"{text[:begin]}{{}}{text[end:]}", text[begin:end]
    raise ValueError(_reason(text, name))


def joiner_after(template: str) -> str:
    """Return what stands between a prompt and what it goes on with: nothing after a script without spaces.

    The last letter around the slot decides, so that a name in another script does not.

    >>> joiner_after("{} speaks"), joiner_after("{}的首都是哪里？"), joiner_after("Who wrote {}?")
    (' ', '', ' ')
    """
    letters = [character for character in template if character.isalpha()]
    return "" if letters and _unspaced(letters[-1]) and not _is_hangul(letters[-1]) else " "


_SIGNS = str.maketrans(
    {"_": " ", "\u00a0": " ", "\u2018": "'", "\u2019": "'", "\u2010": "-", "\u2011": "-", "\u2013": "-"}
)
"""Underscores, no-break spaces, curly apostrophes and other hyphens, as they are typed."""


def _as_written(text: str) -> str:
    return text


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_SIGNS)


def _any_case(text: str) -> str:
    return _composed(text).casefold()


Fold = Callable[[str], str]
_FOLDS: tuple[Fold, ...] = (_as_written, _composed, _any_case)


def _places(text: str, name: str, fold: Fold) -> list[Span]:
    """Return where a name stands as a word, else where it stands beside characters of a script without spaces."""
    found = _occurrences(text, name, fold)
    free = [span for span in found if _stands_free(text, span, unspaced=False)]
    return free or [span for span in found if _stands_free(text, span, unspaced=True)]


def _occurrences(text: str, name: str, fold: Fold) -> list[Span]:
    """Return all places of a name in a text, in its own characters, where both are compared after folding."""
    if fold is _as_written:
        return [found.span() for found in re.finditer(re.escape(name), text)]
    clusters = _clusters(text)
    folded = [fold(text[begin:end]) for begin, end in clusters]
    spans = [span for span, piece in zip(clusters, folded, strict=True) for _ in piece]
    found = (match.span() for match in re.finditer(re.escape(fold(name)), "".join(folded)))
    return [(spans[begin][0], spans[end - 1][1]) for begin, end in found]


def _clusters(text: str) -> list[Span]:
    """Return the places of characters, each with the marks that are put on it."""
    starts = [i for i, character in enumerate(text) if i == 0 or not _continues(character)]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _continues(character: str) -> bool:
    return unicodedata.combining(character) > 0 or "\u1160" <= character <= "\u11ff"  # vowels and finals of Hangul


def _stands_free(text: str, span: Span, *, unspaced: bool) -> bool:
    begin, end = span
    after = text[end : end + 1]
    if after and _continues(after):
        return False
    sides = ((text[begin - 1 : begin], text[begin]), (text[end - 1], after))
    return all(not _one_word(a, b) or (unspaced and (_unspaced(a) or _unspaced(b))) for a, b in sides)


def _one_word(first: str, second: str) -> bool:
    return bool(first and second) and _of_word(first) and _of_word(second)


def _of_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _unspaced(character: str) -> bool:
    return unicodedata.name(character, "").partition(" ")[0] in UNSPACED


def _is_hangul(character: str) -> bool:
    return unicodedata.name(character, "").startswith("HANGUL")


def _reason(text: str, name: str) -> str:
    found = [span for span in _occurrences(text, name, _any_case) if not _continues(text[span[1] : span[1] + 1] or " ")]
    if not found:
        return f"the subject {name!r} is not in {text!r}"
    begin, end = found[-1]
    sides = text[begin - 1 : begin], text[end : end + 1]
    while begin > 0 and _of_word(text[begin - 1]):
        begin -= 1
    while end < len(text) and _of_word(text[end]):
        end += 1
    how = "is joined by an underscore to others in" if "_" in sides else "is part of the longer word"
    return f"the subject {name!r} {how} {text[begin:end]!r}, in {text!r}; name the subject as the text does"
