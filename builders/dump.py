"""Makes a slice of a WikiData truthy dump by streaming: bounded memory, all cores, no store.

Two passes. The first reads the dump once and keeps, in a file beside the slice, the lines that may be needed
(`dump_lines`); one process reads and decompresses, the others cut. The second reads that file, some hundredths of the
dump, and keeps the facts whose object or subject has a label of a tuple of the relation. Memory holds the ids of
those entities and a few blocks, whatever the size of the dump.
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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO, cast

from builders.dump_lines import Cut, Wanted, blocks_of, cut_block, read_label
from builders.pararel import Relation
from builders.queries import ABOUT, DIRECT, ENTITY, LABEL
from core.errors import BadInput

BLOCK = 4 << 20
_FACT = re.compile(f"<{ENTITY}(Q[0-9]+)> <{DIRECT}(P[0-9]+)> <{ENTITY}(Q[0-9]+)>".encode())
_NAMED = re.compile(rf'<{ENTITY}(Q[0-9]+)> <{LABEL}> "(.*)"@[a-z0-9-]+ \.'.encode())
_ABOUT = re.compile(f"<{ABOUT}> <{ENTITY}(Q[0-9]+)>".encode())
_OF_ENTITY = re.compile(f"<{ENTITY}(Q[0-9]+)>".encode())
_PARALLEL = {".bz2": ("lbzip2", "pbzip2"), ".gz": ("pigz",)}


def slice_of_dump(
    dump: Path,
    relations: Sequence[Relation],
    out: Path,
    language: str = "en",
    site: str | None = None,
    *,
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
        workers: processes that cut; by default a core each, all but one.
        block: bytes a block.
        progress: is told how many bytes of the dump, decompressed, are done.

    Returns:
        counts: bytes read, facts, labels and what was left out.

    Raises:
        BadInput: there is no such dump, it is cut off, or it holds nothing of the relations.
    """
    subjects, objects = _labels(relations)
    names = frozenset(label for labels in (*subjects.values(), *objects.values()) for label in labels)
    wanted = Wanted(frozenset(subjects), names, language, site)
    middle = out.with_name(f".{out.name}.lines")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        counts = _first_pass(dump, wanted, middle, workers or max(1, (os.cpu_count() or 2) - 1), block, progress)
        counts.update(_second_pass(middle, subjects, objects, out))
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
    dump: Path, wanted: Wanted, middle: Path, workers: int, block: int, progress: Callable[[int], None] | None
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with open_dump(dump) as stream, gzip.open(middle, "wb", compresslevel=1) as kept:
        for cut in _cuts(blocks_of(stream, block), wanted, workers):
            kept.write(cut.lines)
            counts.update(cut.counts)
            if progress is not None:
                progress(counts["bytes"])
    return counts


def _cuts(blocks: Iterator[bytes], wanted: Wanted, workers: int) -> Iterator[Cut]:
    if workers == 1:
        yield from (cut_block(block, wanted) for block in blocks)
        return
    # Fresh processes: a fork would copy whatever the caller holds.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: deque[Future[Cut]] = deque()
        for block in blocks:
            waiting.append(pool.submit(cut_block, block, wanted))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _second_pass(
    middle: Path, subjects: dict[str, frozenset[str]], objects: dict[str, frozenset[str]], out: Path
) -> Counter[str]:
    ids = _ids_by_label(middle, frozenset().union(*subjects.values(), *objects.values()))
    first = {relation: _all_ids(ids, labels) for relation, labels in subjects.items()}
    second = {relation: _all_ids(ids, labels) for relation, labels in objects.items()}
    named = frozenset().union(*second.values())
    holders: set[bytes] = set()
    with gzip.open(middle) as lines:
        for match in map(_FACT.match, lines):
            if match and _is_needed(match, first, second):
                holders.add(match[1])
    return _write(middle, out, partial(_is_needed, first=first, second=second), frozenset(holders), named)


def _ids_by_label(middle: Path, names: frozenset[str]) -> dict[str, set[bytes]]:
    ids: defaultdict[str, set[bytes]] = defaultdict(set)
    with gzip.open(middle) as lines:
        for match in map(_NAMED.match, lines):
            if match and (label := read_label(match[2])) in names:
                ids[label].add(match[1])
    return ids


def _all_ids(ids: dict[str, set[bytes]], labels: frozenset[str]) -> frozenset[bytes]:
    return frozenset(id for label in labels for id in ids.get(label, ()))


def _is_needed(fact: re.Match[bytes], first: dict[str, frozenset[bytes]], second: dict[str, frozenset[bytes]]) -> bool:
    relation = fact[2].decode()
    return fact[3] in second[relation] or fact[1] in first[relation]


def _write(
    middle: Path,
    out: Path,
    needed: Callable[[re.Match[bytes]], bool],
    holders: frozenset[bytes],
    named: frozenset[bytes],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    fresh = out.with_name(f".{out.name}.fresh")
    with gzip.open(middle) as lines, _create(fresh, out.suffix == ".gz") as file:
        for line in lines:
            if fact := _FACT.match(line):
                kind, keep = "facts", needed(fact)
            elif label := _NAMED.match(line):
                kind, keep = "labels", label[1] in holders or label[1] in named
            elif about := _ABOUT.search(line):
                kind, keep = "articles", about[1] in holders
            else:
                entity = _OF_ENTITY.match(line)
                kind, keep = "sitelinks", entity is not None and entity[1] in holders
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
