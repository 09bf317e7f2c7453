"""From two dumps to the facts whose object was replaced, in passes whose memory does not grow with the dumps.

The first pass streams each dump into parts on disk (`spool`); the others go through these: differences part by part,
then what is known of the replaced objects (redirects, which is a part of which, names), then unchanged facts with the
same objects. In memory are one part of each dump, and what the replaced objects need.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import nsmallest
from pathlib import Path
from tempfile import TemporaryDirectory

from counterfact.core.errors import BadInput

from ..sources.dump_filter import read_label
from .changes import Replaced, replaced_objects
from .picking import CONTAINMENT, Wanted
from .spool import PARTS, Spool

SAMPLED = 20
"""Subjects with an object that are kept for prompts about neighbors; they are those whose hash is smallest."""
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Found:
    """What was found between two dumps."""

    replaced: list[Replaced]
    """By subject's number and relation, with their final kinds."""
    names: dict[int, str]
    """Labels of subjects, old and new objects and neighbors."""
    holders: dict[tuple[str, int], list[int]]
    """Relation and object to subjects that have it alone, in both dumps."""
    counts: Counter[str]
    """Facts by what became of them, and replaced objects by kind."""


def find_updates(
    old: Path,
    new: Path,
    relations: Iterable[str],
    language: str = "en",
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Found:
    """Compare two dumps.

    Args:
        old, new: truthy or full dumps, `.nt`, `.nt.gz` or `.nt.bz2`; statements are used where the new one has them.
        relations: those that are looked at.
        language: of labels, else `mul`.
        workers: processes that filter lines.
        progress: function that is told the stage and how much is done.

    Raises:
        BadInput: a dump is missing, cut off, or has no fact of the relations.
    """
    tell = progress or (lambda _stage, _done, _total: None)
    wanted = Wanted(frozenset(relations), language)
    with TemporaryDirectory(prefix="counterfact-updates-") as folder:
        before, now = (
            Spool.fill(Path(folder) / name, dump, wanted, workers, _megabytes(tell, name))
            for name, dump in (("old", old), ("new", new))
        )
        return _Comparison(before, now, wanted.relations, tell).found()


def _megabytes(tell: Progress, name: str) -> Callable[[int], None]:
    return lambda done: tell(f"{name} dump, MB", done >> 20, None)


class _Comparison:
    def __init__(self, old: Spool, new: Spool, relations: frozenset[str], tell: Progress) -> None:
        self._old, self._new = old, new
        self._relations = relations
        self._tell = tell
        self._counts: Counter[str] = Counter()

    def found(self) -> Found:
        replaced = list(self._replaced())
        if not self._counts and not replaced:
            raise BadInput(f"neither dump has a fact of {', '.join(sorted(self._relations))}; are they dumps?")
        merged = self._merged(replaced)
        parts = self._parts_of_each_other(replaced)
        ends = {end for one in replaced for end in (one.subject, one.old, one.new)}
        names = self._names(ends)
        final = [_settled(one, merged, parts, names) for one in replaced]
        self._counts.update(f"replaced: {one.kind}" for one in final)
        holders = self._holders({(one.relation, object) for one in final for object in (one.old, one.new)})
        names |= self._names({subject for held in holders.values() for subject in held} - names.keys())
        return Found(final, names, holders, self._counts)

    def _replaced(self) -> Iterator[Replaced]:
        full = self._new.has_statements
        for number in range(PARTS):
            before, now = (spool.part(number, self._relations) for spool in (self._old, self._new))
            yield from replaced_objects(before, now, self._relations, self._counts, full=full)
            self._tell("differences", number + 1, PARTS)

    def _merged(self, replaced: Iterable[Replaced]) -> set[tuple[int, int]]:
        pairs = {(one.old, one.new) for one in replaced}
        return {pair for pair in self._new.redirects() if pair in pairs}

    def _parts_of_each_other(self, replaced: Iterable[Replaced]) -> set[tuple[int, int]]:
        pairs = {pair for one in replaced for pair in ((one.old, one.new), (one.new, one.old))}
        found: set[tuple[int, int]] = set()
        for number in range(PARTS):
            for (subject, _), objects in self._new.part(number, CONTAINMENT).objects.items():
                found.update(pair for object in objects if (pair := (subject, object)) in pairs)
            self._tell("parts", number + 1, PARTS)
        return found

    def _names(self, wanted: set[int]) -> dict[int, str]:
        """Return labels, of the new dump before the old one's, of the language before `mul`."""
        found: dict[int, tuple[int, str]] = {}
        for place, spool in enumerate((self._new, self._old)):
            for number, tag, label in spool.labels():
                if number in wanted:
                    made = (2 * place + (tag == "mul"), read_label(label).strip())
                    found[number] = min(found.get(number, made), made)
        return {number: name for number, (_, name) in found.items() if name}

    def _holders(self, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], list[int]]:
        found: dict[tuple[str, int], list[int]] = {}
        relations = {relation for relation, _ in wanted}
        for number in range(PARTS):
            before, now = (spool.part(number, relations).objects for spool in (self._old, self._new))
            fresh: dict[tuple[str, int], list[int]] = {}
            for (subject, relation), objects in now.items():
                if len(objects) == 1 and before.get((subject, relation)) == objects:
                    (object,) = objects
                    if (relation, object) in wanted:
                        fresh.setdefault((relation, object), []).append(subject)
            for key, subjects in fresh.items():
                found[key] = nsmallest(SAMPLED, [*found.get(key, ()), *subjects], key=_hash)
            self._tell("neighbors", number + 1, PARTS)
        return found


def _hash(number: int) -> bytes:
    return sha256(str(number).encode()).digest()


def _settled(
    one: Replaced, merged: set[tuple[int, int]], parts: set[tuple[int, int]], names: dict[int, str]
) -> Replaced:
    """Return it with the kind that what is known of its objects gives it."""
    if (one.old, one.new) in merged:
        return replace(one, kind="merged")
    if names.get(one.old, "").casefold() == names.get(one.new, "?").casefold():
        return replace(one, kind="same name")
    if (one.old, one.new) in parts or (one.new, one.old) in parts:
        return replace(one, kind="refinement")
    return one
