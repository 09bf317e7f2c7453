"""Slices of a WikiData truthy dump, made by streaming: bounded memory, all cores, no store.

Two passes. The first reads the dump once and keeps, in a file beside the slice, the lines that may be needed
(`dump_filter`); one process reads and decompresses, the others filter. The second reads that file, some hundredths of
the dump, and keeps the facts whose object or subject has a label of a tuple of the relation. Memory holds the ids of
those entities and a few blocks, whatever the size of the dump.

An object such as a large country has millions of subjects, and a build draws ten of them for a record. So of an
object with more than `most` subjects a part is kept: a fifth of `most` by the lowest ids, which a pool in that order
holds, and the others are a sample, those whose hash is small enough, from which to draw is to draw from all. The
subjects of tuples always stay, and of a subject that stays so do all its objects, since a neighbor must not have the
new object either; of the objects, what they are kinds and parts of, and of the subjects of some relations
(`subject_kinds`) what they are.
"""

import bz2
import gzip
import os
import shutil
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from heapq import heappush, heappushpop
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from counterfact.core.errors import BadInput

from .dump_filter import LineFilter, entity_blocks, filter_block
from .dump_lines import (
    ABOUT_ENTITY,
    ALIASED,
    FACT,
    NAMED,
    OF_ENTITY,
    and_above,
    below,
    facts,
    ids_by_label,
    number,
    parts,
)
from .pararel import Relation
from .queries import ABOVE
from .subject_kinds import INSTANCE, OCCUPATION, SUBCLASS, load_subject_kinds

T = TypeVar("T")

BLOCK = 4 << 20
MOST = 1000
"""Approximate number of subjects of an object that a slice keeps."""
_PARALLEL = {".bz2": ("lbzip2", "pbzip2"), ".gz": ("pigz",)}


def write_dump_slice(
    dump: Path,
    relations: Sequence[Relation],
    out: Path,
    language: str = "en",
    site: str | None = None,
    *,
    most: int = MOST,
    workers: int | None = None,
    block: int = BLOCK,
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Write the slice of a dump that a build of these relations needs, in the dump's order.

    Args:
        dump: `.nt`, `.nt.gz` or `.nt.bz2`.
        relations: their tuples say what is needed.
        out: `.nt`, or `.nt.gz`.
        language: of the labels, else `mul`.
        site: what the IRIs of articles start with, where the dump has them.
        most: subjects of an object that are kept, about; 0 for all.
        workers: processes that filter; by default one a core, except for one core.
        block: bytes a block.
        progress: function that is told how many bytes of the dump, decompressed, are done.

    Returns:
        counts: bytes read, facts, labels and what was left out.

    Raises:
        BadInput: there is no such dump, it is cut off, or it holds nothing of the relations.
    """
    subjects = {relation.id: frozenset(fact.subject for fact in relation.tuples) for relation in relations}
    objects = {relation.id: frozenset(fact.object for fact in relation.tuples) for relation in relations}
    names = frozenset[str]().union(*subjects.values(), *objects.values())
    wanted = LineFilter(frozenset(subjects).union(ABOVE), names, language, site, kinds_of(subjects))
    lines = out.with_name(f".{out.name}.lines")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        counts = _first_pass(dump, wanted, lines, workers or max(1, (os.cpu_count() or 2) - 1), block, progress)
        needed = _SliceFilter(lines, subjects, objects, most)
        _write(lines, out, needed)
        counts.update(needed.counts)
    finally:
        lines.unlink(missing_ok=True)
    if not counts["facts"]:
        out.unlink(missing_ok=True)
        raise BadInput(f"{dump}: no fact of {', '.join(sorted(subjects))} with a label of their tuples; is it a dump?")
    return counts


def kinds_of(relations: Collection[str]) -> frozenset[str]:
    """Return by which relations a build of these asks what their subjects are and do.

    >>> sorted(kinds_of(["P103", "P364"])), sorted(kinds_of(["P103"]))
    (['P31'], [])
    """
    rules = [rule for relation, rule in load_subject_kinds().items() if relation in relations]
    asked = {INSTANCE} if rules else set()
    return frozenset(asked | ({OCCUPATION} if any(rule.occupations for rule in rules) else set()))


def _first_pass(
    dump: Path, wanted: LineFilter, lines: Path, workers: int, block: int, progress: Callable[[int], None] | None
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with open_dump(dump) as stream, gzip.open(lines, "wb", compresslevel=1) as kept:
        for cut in map_blocks(partial(filter_block, wanted=wanted), entity_blocks(stream, block), workers):
            kept.write(cut.lines)
            counts.update(cut.counts)
            if progress is not None:
                progress(counts["bytes"])
    return counts


def map_blocks(work: Callable[[bytes], T], blocks: Iterator[bytes], workers: int) -> Iterator[T]:
    """Yield what a function makes of each block, in order, by so many processes; few blocks are in memory at a time.

    Args:
        work: function that can be sent to another process.
        blocks: the blocks.
        workers: processes; with one, this process does it all.
    """
    if workers == 1:
        yield from map(work, blocks)
        return
    # Fresh processes: a fork would copy whatever the caller holds.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: deque[Future[T]] = deque()
        for block in blocks:
            waiting.append(pool.submit(work, block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _SliceFilter:
    """Choice of the lines that stay, among those that may be needed.

    Args:
        lines: file of the lines that may be needed.
        subjects: relation to the labels of its tuples' subjects.
        objects: relation to the labels of its tuples' objects.
        most: approximate number of subjects of an object that are kept; 0 for all.
    """

    def __init__(
        self, lines: Path, subjects: Mapping[str, frozenset[str]], objects: Mapping[str, frozenset[str]], most: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        ids = ids_by_label(lines, frozenset().union(*subjects.values(), *objects.values()))
        self._subjects = {relation: _all_ids(ids, labels) for relation, labels in subjects.items()}
        self._objects = {relation: _all_ids(ids, labels) for relation, labels in objects.items()}
        shares = self._shares(lines, most) if most else {}
        lowest = self._lowest(lines, shares, most // 5)
        self._kept: dict[str, set[bytes]] = {relation: set() for relation in subjects}
        for subject, relation, object in self._of_relations(lines):
            key = relation, object
            drawn = object in self._objects[relation] and _drawn(subject, shares.get(key, 1.0))
            if drawn or subject in self._subjects[relation] or number(subject) <= lowest.get(key, -1):
                self._kept[relation].add(subject)
        self._below = below(lines, frozenset().union(*self._objects.values()))
        rules = [rule for relation, rule in load_subject_kinds().items() if relation in subjects]
        self._checked = {
            INSTANCE: frozenset[bytes]().union(*(self._kept[rule.relation] for rule in rules)),
            OCCUPATION: frozenset[bytes]().union(*(self._kept[rule.relation] for rule in rules if rule.occupations)),
        }
        self._classes = and_above(lines, self._leads_to_a_class) if rules else set()
        self._holders = frozenset[bytes]().union(*self._kept.values())
        self._labelled = self._holders.union(*self._objects.values())

    def keeps(self, line: bytes) -> bool:
        """Tell whether a line belongs to the slice, and count it."""
        if fact := FACT.match(line):
            kind, keep = self._keeps_fact(*parts(fact))
        elif label := NAMED.match(line):
            kind, keep = "labels", label[1] in self._labelled
        elif about := ABOUT_ENTITY.search(line):
            kind, keep = "articles", about[1] in self._holders
        elif alias := ALIASED.match(line):
            kind, keep = "aliases", alias[1] in self._labelled
        else:
            entity = OF_ENTITY.match(line)
            kind, keep = "sitelinks", entity is not None and entity[1] in self._holders
        self.counts[kind] += keep
        return keep

    def _keeps_fact(self, subject: bytes, relation: str, object: bytes) -> tuple[str, bool]:
        if relation in ABOVE and subject in self._below:
            return "facts", True
        if relation in self._subjects:
            if subject in self._subjects[relation]:
                return "facts", True
            is_held, keep = object in self._objects[relation], subject in self._kept[relation]
            self.counts["facts of subjects not drawn"] += is_held and not keep
            if is_held and keep:
                return "facts", True
        return "facts of kinds", self._leads_to_a_class(subject, relation) or (
            relation == SUBCLASS and subject in self._classes
        )

    def _leads_to_a_class(self, subject: bytes, relation: str) -> bool:
        """Tell whether a fact says what a subject is or does, where a build asks for that."""
        return subject in self._checked.get(relation, ())

    def _shares(self, lines: Path, most: int) -> dict[tuple[str, bytes], float]:
        """Return the share of their subjects that is kept, of objects with more than `most`."""
        facts = ((relation, object) for _, relation, object in self._of_relations(lines))
        sizes = Counter(key for key in facts if key[1] in self._objects[key[0]])
        shares = {key: (most - most // 5) / size for key, size in sizes.items() if size > most}
        self.counts["objects with a sample of their subjects"] = len(shares)
        return shares

    def _lowest(self, lines: Path, keys: Collection[tuple[str, bytes]], count: int) -> dict[tuple[str, bytes], int]:
        """Return, of each object, the number of the last of its `count` subjects with the lowest ids."""
        heaps: dict[tuple[str, bytes], list[int]] = {key: [] for key in keys}
        for subject, relation, object in self._of_relations(lines) if count and keys else ():
            if (heap := heaps.get((relation, object))) is not None:
                (heappush if len(heap) < count else heappushpop)(heap, -number(subject))
        return {key: -heap[0] for key, heap in heaps.items() if heap}

    def _of_relations(self, lines: Path) -> Iterator[tuple[bytes, str, bytes]]:
        return (fact for fact in facts(lines) if fact[1] in self._objects)


def _drawn(subject: bytes, share: float) -> bool:
    return share >= 1 or int.from_bytes(sha256(subject).digest()[:8]) < share * 2**64


def _all_ids(ids: Mapping[str, set[bytes]], labels: frozenset[str]) -> frozenset[bytes]:
    return frozenset(id for label in labels for id in ids.get(label, ()))


def _write(lines: Path, out: Path, needed: _SliceFilter) -> None:
    fresh = out.with_name(f".{out.name}.fresh")
    with ExitStack() as stack:
        file: Any = stack.enter_context(fresh.open("wb"))
        if out.suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        file.writelines(filter(needed.keeps, stack.enter_context(gzip.open(lines))))
    fresh.replace(out)


def check_dump(dump: Path) -> None:
    """Raise `BadInput` unless there is a file with a dump's name."""
    if not dump.is_file() or dump.suffix not in (".nt", ".gz", ".bz2"):
        raise BadInput(f"no dump at {dump}: expected a file .nt, .nt.gz or .nt.bz2")


@contextmanager
def open_dump(dump: Path) -> Iterator[BinaryIO]:
    """Open a dump, decompressed, with a parallel program where there is one for its form.

    Raises:
        BadInput: there is none, or it is cut off.
    """
    check_dump(dump)
    program = next(filter(shutil.which, _PARALLEL.get(dump.suffix, ())), None)
    try:
        if program is not None:
            with subprocess.Popen([program, "-dc", str(dump)], stdout=subprocess.PIPE) as process:
                yield cast(BinaryIO, process.stdout)
            if process.returncode:
                raise EOFError(f"{program} ended with {process.returncode}")
        else:
            opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(dump.suffix, open)
            with opener(dump, "rb") as stream:
                yield stream
    except (EOFError, OSError) as error:
        raise BadInput(f"{dump}: not a whole dump: {error}; nothing was written") from error
