"""The form of a prompt: how it reads where template, subject and object were put together."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

_VOWEL = re.compile(r"[aeiou]", re.IGNORECASE)
_LIKE_A_CONSONANT = re.compile(r"(uni(?!n)|us(?!h)|eu|one\b|u[a-z]?\b)", re.IGNORECASE)
_LIKE_A_VOWEL = re.compile(r"(hono|hour|heir)", re.IGNORECASE)
_TWICE = re.compile(r"(?<![\w'’-])([a-z]+) \1(?![\w'’-])")
_MEANT = frozenset({"had", "that"})
"""Words that may stand twice: "the band that had had"."""
_FAULTS = (
    (re.compile(r"  "), "two spaces"),
    (re.compile(r"\s$"), "a space at the end"),
    (re.compile(r"\s[,.;!?](\s|$)"), "a space before punctuation"),
    (re.compile(r"\[[XY]\]|\{\}"), "an empty slot"),
    (re.compile(r"^\s"), "a space at the start"),
)


def malformations(prompt: str, objects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is malformed in a prompt, or where an object follows it: kind of finding, and the text.

    >>> list(malformations("Lyon is in", ["in the south"]))
    [('malformed prompt', "Lyon is in [in the south]: 'in' twice")]
    >>> list(malformations("Ada is a", ["actor", "lawyer"]))
    [('a or an', 'Ada is a [actor]')]
    """
    for pattern, fault in _FAULTS:
        if pattern.search(prompt):
            yield "malformed prompt", f"{prompt}: {fault}"
    repeated = [match[1] for match in _TWICE.finditer(prompt) if match[1] not in _MEANT]
    if repeated:
        yield "malformed prompt", f"{prompt}: {repeated[0]!r} twice"
    last = prompt.rsplit(maxsplit=1)[-1].casefold() if prompt.strip() else ""
    for label in objects:
        if label.casefold().split()[:1] == [last]:
            yield "malformed prompt", f"{prompt} [{label}]: {last!r} twice"
        if last in ("a", "an") and (last == "an") != _takes_an(label):
            yield "a or an", f"{prompt} [{label}]"


def holds_label(label: str, prompt: str) -> bool:
    """Tell whether a prompt holds a label as whole words, letter case apart.

    >>> holds_label("Rome", "rome is in"), holds_label("Rome", "Jerome is in")
    (True, False)
    """
    place = (text := prompt.casefold()).find(part := label.casefold()) if label else -1
    while place >= 0:
        end = place + len(part)
        if not text[max(0, place - 1) : place].isalnum() and not text[end : end + 1].isalnum():
            return True
        place = text.find(part, place + 1)
    return False


def normal_form(label: str) -> str:
    """Return what two names share that are the same but for case, accents, punctuation and the order of their words.

    >>> normal_form("Müller, Ada") == normal_form("ada muller")
    True
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", label) if not unicodedata.combining(letter))
    return " ".join(sorted(re.findall(r"\w+", plain.casefold())))


def _takes_an(label: str) -> bool:
    if _LIKE_A_VOWEL.match(label):
        return True
    return bool(_VOWEL.match(label)) and not _LIKE_A_CONSONANT.match(label)
