"""What changed between two dumps, and of what kind each replaced object is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .spool import Part, Statement

Kind = Literal["change", "correction", "undated", "suspect", "refinement", "merged", "same name"]
"""What a replaced object tells.

change: the world changed, by a date of start or end, or by a preferred rank beside the old object.
correction: the old object was wrong: it is deprecated now, or gone for one with a reference.
undated: neither can be told, as in truthy dumps always.
suspect: an object without a reference took the place of one that had some, without a date: vandalism looks so.
refinement: one object is a part or a kind of the other.
merged: the old object's entity became the new one.
same name: both objects have one name, so that there is nothing to edit.
"""


@dataclass(frozen=True)
class Replaced:
    """A subject's only object in a relation that became another."""

    subject: int
    relation: str
    old: int
    new: int
    kind: Kind


def replaced_objects(
    before: Part, now: Part, relations: frozenset[str], counts: Counter[str], *, full: bool
) -> Iterator[Replaced]:
    """Yield the replaced objects of a part of both dumps, in order, and count all other differences.

    Args:
        before: of the old dump.
        now: of the new one.
        relations: those that are looked at.
        counts: gets the differences, by kind.
        full: whether the new dump has statements at all.
    """
    for key in sorted(before.objects.keys() | now.objects.keys()):
        subject, relation = key
        if relation not in relations:
            continue
        old, new = _current(before, key), _current(now, key)
        gone, came = old - new, new - old
        if not gone and not came:
            counts["unchanged"] += bool(old)
        elif not old or not new:
            counts["new facts" if new else "facts that ended or went"] += 1
        elif len(old) == len(new) == 1:
            (was,), (is_now,) = gone, came
            yield Replaced(subject, relation, was, is_now, _kind(before, now, (*key, was), (*key, is_now), full=full))
        elif len(gone) == len(came) == 1:
            counts["one of several objects replaced"] += 1
        else:
            counts["objects added or removed"] += 1


def _current(part: Part, key: tuple[int, str]) -> set[int]:
    """Return the objects of best rank that have not ended."""
    return {
        object
        for object in part.objects.get(key, ())
        if not (stated := _ranked(part, (*key, object))) or not all(one.end for one in stated)
    }


def _ranked(part: Part, fact: tuple[int, str, int]) -> list[Statement]:
    return [one for one in part.statements.get(fact, ()) if one.rank != "Deprecated"]


def _kind(before: Part, now: Part, old: tuple[int, str, int], new: tuple[int, str, int], *, full: bool) -> Kind:
    if not full:
        return "undated"
    stated, still, deprecated = _ranked(now, new), _ranked(now, old), now.statements.get(old, ())
    if any(one.start for one in stated) or any(one.end for one in still):
        return "change"
    if still and any(one.rank == "Preferred" for one in stated):
        return "change"
    if deprecated and not still:
        return "correction"
    if any(one.referenced for one in stated):
        return "correction"
    return "suspect" if any(one.referenced for one in before.statements.get(old, ())) else "undated"
