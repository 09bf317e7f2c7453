"""The YAML header of a card, changed key by key in its text, so that comments and order of what stays are kept."""

import re
from typing import Any

import yaml

from counterfact.core.errors import BadInput

_OURS = ("size_categories", "configs", "dataset_info")
"""Keys that follow from the data. All others are written once and then belong to whoever edits the card."""

_CARD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?(?:\n|\Z)\s*", re.S | re.M)


def split_card(text: str) -> tuple[str, str]:
    r"""Return header and body of a card.

    >>> split_card("---\nlicense: mit\n---\n\n# Title\n")
    ('license: mit\n', '# Title\n')
    """
    found = _CARD.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def merge_header(theirs: str, ours: str) -> tuple[str, list[str]]:
    """Bring a header up to date.

    Args:
        theirs: the header in the repository, edited by hand perhaps.
        ours: a fresh one.

    Returns:
        Their header with the keys that follow from the data, and the keys in which theirs differs and stays. Of
        `configs` and `dataset_info`, entries of configurations that are not ours stay.

    Raises:
        BadInput: theirs is not YAML, or not a mapping.
    """
    before, fresh = _parse(theirs), _parse(ours)
    text, kept = theirs, []
    for key, value in fresh.items():
        if key not in before:
            text = _end(text) + _dump(key, value)
        elif key in _OURS:
            wanted = _combine(before[key], value) if key != "size_categories" else value
            if wanted != before[key]:
                text = _replace(text, key, _dump(key, wanted))
        elif before[key] != value:
            kept.append(key)
    return text, kept


def _parse(header: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(header) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"the header of the card in the repository is not YAML; mend it there first: {error}") from error
    if not isinstance(values, dict):
        raise BadInput("the header of the card in the repository is no mapping; mend it there first")
    return values


def _combine(theirs: Any, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put our entries in place of theirs of the same name; one default among all, and theirs stays the default."""
    entries = [theirs] if isinstance(theirs, dict) else list(theirs or [])
    names = {entry["config_name"] for entry in ours}
    foreign = [entry for entry in entries if entry.get("config_name") not in names]
    if any(entry.get("default") for entry in foreign):
        ours = [{key: value for key, value in entry.items() if key != "default"} for entry in ours]
    return [*ours, *foreign]


def _dump(key: str, value: Any) -> str:
    return yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1_000)


def _replace(text: str, key: str, fresh: str) -> str:
    # A key's value goes on over lines that are indented, are items of a list, or are empty.
    pattern = re.compile(rf"^{re.escape(key)}:.*\n?(?:^(?:[ \t-].*)?(?:\n|\Z))*", re.M)
    start, end = next(found.span() for found in pattern.finditer(text))
    return _end(text[:start]) + fresh + text[end:]


def _end(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
