"""Slices of a WikiData truthy dump, made by streaming: bounded memory, all cores, no store.

Two passes. The first reads the dump once and keeps, in a file beside the slice, the lines that may be needed
(`dump_filter`); one process reads and decompresses, the others filter. The second reads that file, some hundredths of
the dump, and keeps the facts whose object or subject has a label of a tuple of the relation. Memory holds the ids of
those entities and a few blocks, whatever the size of the dump.

An object such as a large country has millions of subjects, and a build draws ten of them for a record. So of an
object with more than `most` subjects a sample is kept: those whose hash is small enough. A draw from a uniform sample
is a draw from all; the lowest ids would be those that were entered first, the best known. The subjects of tuples always
stay, and of a subject that stays so do all its objects, since a neighbor must not have the new object either.
"""

import bz2
import gzip
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO, cast

from counterfact.core.errors import BadInput

from .dump_filter import FilteredBlock, LineFilter, entity_blocks, filter_block, read_label
from .pararel import Relation
from .queries import ABOUT, DIRECT, ENTITY, LABEL

BLOCK = 4 << 20
MOST = 1000
"""Approximate number of subjects of an object that a slice keeps."""
_FACT = re.compile(f"<{ENTITY}(Q[0-9]+)> <{DIRECT}(P[0-9]+)> <{ENTITY}(Q[0-9]+)>".encode())
_NAMED = re.compile(rf'<{ENTITY}(Q[0-9]+)> <{LABEL}> "(.*)"@[a-z0-9-]+ \.'.encode())
_ABOUT = re.compile(f"<{ABOUT}> <{ENTITY}(Q[0-9]+)>".encode())
_OF_ENTITY = re.compile(f"<{ENTITY}(Q[0-9]+)>".encode())
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
        progress: is told how many bytes of the dump, decompressed, are done.

    Returns:
        counts: bytes read, facts, labels and what was left out.

    Raises:
        BadInput: there is no such dump, it is cut off, or it holds nothing of the relations.
    """
    subjects, objects = _labels(relations)
    names = frozenset(label for labels in (*subjects.values(), *objects.values()) for label in labels)
    wanted = LineFilter(frozenset(subjects), names, language, site)
    middle = out.with_name(f".{out.name}.lines")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        counts = _first_pass(dump, wanted, middle, workers or max(1, (os.cpu_count() or 2) - 1), block, progress)
        counts.update(_second_pass(middle, subjects, objects, out, most))
    finally:
        middle.unlink(missing_ok=True)
    if not counts["facts"]:
        out.unlink(missing_ok=True)
        raise BadInput(f"{dump}: no fact of {', '.join(sorted(subjects))} with a label of their tuples; is it a dump?")
    return counts


def _labels(relations: Sequence[Relation]) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    subjects = {relation.id: frozenset(fact.subject for fact in relation.tuples) for relation in relations}
    objects = {relation.id: frozenset(fact.object for fact in relation.tuples) for relation in relations}
    return subjects, objects


def _first_pass(
    dump: Path, wanted: LineFilter, middle: Path, workers: int, block: int, progress: Callable[[int], None] | None
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with open_dump(dump) as stream, gzip.open(middle, "wb", compresslevel=1) as kept:
        for cut in _filtered(entity_blocks(stream, block), wanted, workers):
            kept.write(cut.lines)
            counts.update(cut.counts)
            if progress is not None:
                progress(counts["bytes"])
    return counts


def _filtered(blocks: Iterator[bytes], wanted: LineFilter, workers: int) -> Iterator[FilteredBlock]:
    if workers == 1:
        yield from (filter_block(block, wanted) for block in blocks)
        return
    # Fresh processes: a fork would copy whatever the caller holds.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: deque[Future[FilteredBlock]] = deque()
        for block in blocks:
            waiting.append(pool.submit(filter_block, block, wanted))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _second_pass(
    middle: Path, subjects: dict[str, frozenset[str]], objects: dict[str, frozenset[str]], out: Path, most: int
) -> Counter[str]:
    ids = _ids_by_label(middle, frozenset().union(*subjects.values(), *objects.values()))
    needed = _Needed(
        {relation: _all_ids(ids, labels) for relation, labels in subjects.items()},
        {relation: _all_ids(ids, labels) for relation, labels in objects.items()},
    )
    if most:
        needed.count(_facts(middle), most)
    needed.choose(_facts(middle))
    return _write(middle, out, needed) + needed.counts


class _Needed:
    """The facts that are needed, and their subjects.

    Args:
        subjects: relation to the entities that its tuples may mean.
        objects: relation to the objects that they may mean.
    """

    def __init__(self, subjects: dict[str, frozenset[bytes]], objects: dict[str, frozenset[bytes]]) -> None:
        self._subjects = subjects
        self._objects = objects
        self._shares: dict[tuple[str, bytes], float] = {}
        self._kept: dict[str, set[bytes]] = {relation: set() for relation in subjects}
        self.named = frozenset[bytes]().union(*objects.values())
        self.holders = frozenset[bytes]()
        self.counts: Counter[str] = Counter()

    def count(self, facts: Iterator[re.Match[bytes]], most: int) -> None:
        """Count the subjects of every object, and find which objects have more than `most`."""
        sizes = Counter(key for fact in facts if (key := _relation_and_object(fact))[1] in self._objects[key[0]])
        self._shares = {key: most / size for key, size in sizes.items() if size > most}
        self.counts["objects with a sample of their subjects"] = len(self._shares)

    def choose(self, facts: Iterator[re.Match[bytes]]) -> None:
        """Choose the subjects that are kept."""
        for fact in facts:
            relation, object = key = _relation_and_object(fact)
            is_held = object in self._objects[relation]
            if fact[1] in self._subjects[relation] or (is_held and _drawn(fact[1], self._shares.get(key, 1.0))):
                self._kept[relation].add(fact[1])
        self.holders = frozenset[bytes]().union(*self._kept.values())

    def keeps(self, fact: re.Match[bytes]) -> bool:
        """Tell whether a fact belongs to the slice."""
        relation, object = _relation_and_object(fact)
        if fact[1] in self._subjects[relation]:
            return True
        is_held = object in self._objects[relation]
        self.counts["facts of subjects not drawn"] += is_held and fact[1] not in self._kept[relation]
        return is_held and fact[1] in self._kept[relation]


def _relation_and_object(fact: re.Match[bytes]) -> tuple[str, bytes]:
    return fact[2].decode(), fact[3]


def _drawn(subject: bytes, share: float) -> bool:
    return share >= 1 or int.from_bytes(sha256(subject).digest()[:8]) < share * 2**64


def _facts(middle: Path) -> Iterator[re.Match[bytes]]:
    with gzip.open(middle) as lines:
        yield from filter(None, map(_FACT.match, lines))


def _ids_by_label(middle: Path, names: frozenset[str]) -> dict[str, set[bytes]]:
    ids: defaultdict[str, set[bytes]] = defaultdict(set)
    with gzip.open(middle) as lines:
        for match in map(_NAMED.match, lines):
            if match and (label := read_label(match[2])) in names:
                ids[label].add(match[1])
    return ids


def _all_ids(ids: dict[str, set[bytes]], labels: frozenset[str]) -> frozenset[bytes]:
    return frozenset(id for label in labels for id in ids.get(label, ()))


def _write(middle: Path, out: Path, needed: _Needed) -> Counter[str]:
    counts: Counter[str] = Counter()
    fresh = out.with_name(f".{out.name}.fresh")
    with gzip.open(middle) as lines, _create(fresh, out.suffix == ".gz") as file:
        for line in lines:
            if fact := _FACT.match(line):
                kind, keep = "facts", needed.keeps(fact)
            elif label := _NAMED.match(line):
                kind, keep = "labels", label[1] in needed.holders or label[1] in needed.named
            elif about := _ABOUT.search(line):
                kind, keep = "articles", about[1] in needed.holders
            else:
                entity = _OF_ENTITY.match(line)
                kind, keep = "sitelinks", entity is not None and entity[1] in needed.holders
            counts[kind] += keep
            if keep:
                file.write(line)
    fresh.replace(out)
    return counts


@contextmanager
def _create(path: Path, zipped: bool) -> Iterator[BinaryIO]:
    with path.open("wb") as raw:
        if zipped:
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                yield cast(BinaryIO, file)
        else:
            yield raw


@contextmanager
def open_dump(dump: Path) -> Iterator[BinaryIO]:
    """Open a dump, decompressed, with a parallel program where there is one for its form.

    Raises:
        BadInput: there is none, or it is cut off.
    """
    if not dump.is_file() or dump.suffix not in (".nt", ".gz", ".bz2"):
        raise BadInput(f"no dump at {dump}: expected a file .nt, .nt.gz or .nt.bz2")
    program = next(filter(shutil.which, _PARALLEL.get(dump.suffix, ())), None)
    try:
        if program is not None:
            with subprocess.Popen([program, "-dc", str(dump)], stdout=subprocess.PIPE) as process:
                yield cast(BinaryIO, process.stdout)
            if process.returncode:
                raise EOFError(f"{program} ended with {process.returncode}")
        else:
            with _decompressed(dump) as stream:
                yield stream
    except (EOFError, OSError) as error:
        raise BadInput(f"{dump}: not a whole dump: {error}; nothing was written") from error


def _decompressed(dump: Path) -> BinaryIO:
    if dump.suffix == ".gz":
        return cast(BinaryIO, gzip.open(dump, "rb"))
    return cast(BinaryIO, bz2.open(dump, "rb")) if dump.suffix == ".bz2" else dump.open("rb")
