"""Labels as they may stand in a prompt: cleaned once, where a source is read, or refused.

Tables and dumps carry what is no part of a name: a note in parentheses after a title, the doubled quotes of CSV, line
breaks, no-break spaces, characters without a width. The same rule is applied to the labels of tuples and of entities,
so that such a difference never hides a fact.
"""

import re
import unicodedata

_NOTE = re.compile(r"(.*\S)\s+\([^()]*\)", re.S)
_QUOTED = re.compile(r'"(.*"".*)"', re.S)
_ID = re.compile(r"[QPL][0-9]+")
_JOINERS = "\u200c\u200d"
_PRONOUNS = frozenset(
    {"he", "her", "him", "his", "i", "it", "its", "me", "she", "their", "them", "they", "us", "we", "you"}
)


def clean_label(label: str) -> str | None:
    """Return a label as a name in running text, or None where it names nothing: an id, a pronoun, nothing at all.

    Note in parentheses at the end, CSV's quotes, control and format characters are left out; white space of any kind
    and length becomes one space; the form is NFC. Joiners stay between letters that they join, as in Persian or Hindi.

    >>> clean_label("The Wall (film)"), clean_label('"Ann ""Bo"" Cy"'), clean_label(" Ueno\\u00a0 Park\\u200e\\n")
    ('The Wall', 'Ann "Bo" Cy', 'Ueno Park')
    >>> clean_label("It"), clean_label("Q42"), clean_label("(1987)")
    (None, None, '(1987)')
    """
    name = _cleaned_once(label)
    while name is not None and (again := _cleaned_once(name)) != name:
        name = again
    return name


def _cleaned_once(label: str) -> str | None:
    text = quoted[1].replace('""', '"') if (quoted := _QUOTED.fullmatch(label.strip())) else label
    if not text.isprintable():
        text = "".join(_kept(text, place) for place in range(len(text)))
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    text = note[1] if (note := _NOTE.fullmatch(text)) else text
    names_nothing = not text or text.casefold() in _PRONOUNS or _ID.fullmatch(text)
    return None if names_nothing else text


def _kept(text: str, place: int) -> str:
    letter = text[place]
    if letter in _JOINERS and text[place - 1 : place].isalpha() and not text[place - 1].isascii():
        return letter
    category = unicodedata.category(letter)
    if category in ("Cf", "Cs", "Co"):
        return ""
    return " " if category == "Cc" or letter.isspace() else letter
