"""What a format is: how files of others hold records, told by their keys, and how each becomes a benchmark's record."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from counterfact.core.registry import Registry

Value = Mapping[str, Any]
"""One record as a file has it."""
Note = Callable[[str], None]
"""Told how one record was read, where that is not plain from its keys; equal notes are counted."""


@dataclass(frozen=True)
class Format:
    """One form of records."""

    name: str
    title: str
    """For people, with whose it is."""
    recognises: Callable[[Value], bool]
    """Whether a record is of this form; no two forms recognise the same one."""
    benchmark: str
    """The benchmark whose record it becomes, and by which it is measured unless another is requested."""
    convert: Callable[[Value, int, Note], dict[str, Any]]
    """Record and its place in the file -> JSON object that the benchmark parses; raises `ValueError`."""
    keys: frozenset[str]
    """Keys that it is known to have, one inside another as `requested_rewrite.prompt`; others are named and ignored."""
    keys_of: Mapping[str, str] = field(default_factory=dict)
    """For a key that only one benchmark reads, that benchmark."""
    warning: str = ""
    """What everybody who measures by it should know."""


@dataclass(frozen=True)
class OtherFormat:
    """A form that is known by name, and cannot be read as a data set."""

    name: str
    title: str
    recognises: Callable[[Value], bool]
    advice: str
    """What to do instead."""


FORMATS: Registry[Format | OtherFormat] = Registry("format", "evaluation.formats")


def register_format(spec: Format | OtherFormat) -> Format | OtherFormat:
    """Register a form under its name."""
    return FORMATS.add(spec.name, spec)


def format_of(value: Value) -> Format | OtherFormat | None:
    """Return the form that recognises a record."""
    known = (FORMATS.get(name) for name in FORMATS)
    return next((each for each in known if each.recognises(value)), None)


def unread_keys(value: Value, form: Format) -> Iterable[str]:
    """Yield the keys of a record that nothing here reads, those of its inner objects as `outer.inner`."""
    for key, inner in value.items():
        if key not in form.keys:
            yield key
        elif isinstance(inner, Mapping):
            named = [(f"{key}.{name}", each) for name, each in inner.items()]
            listed = any(known.startswith(f"{key}.") for known in form.keys)
            yield from (name for name, _ in named if listed and name not in form.keys)
