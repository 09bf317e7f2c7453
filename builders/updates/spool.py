"""Rows of a dump on disk: facts and statements in parts by their subject's number, labels and redirects in one file."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from sys import intern
from typing import BinaryIO, NamedTuple

from ..sources.dump_filter import entity_blocks
from ..sources.truthy_dump import BLOCK, map_blocks, open_dump
from .picking import Wanted, pick_rows

PARTS = 256
"""A part holds 1/256 of all subjects; one of each dump is in memory at a time."""


class Statement(NamedTuple):
    """A statement of a full dump."""

    rank: str
    start: str
    end: str
    """A date, `?` for an unknown one, or nothing."""
    referenced: bool


class Part(NamedTuple):
    """The facts of some subjects."""

    objects: dict[tuple[int, str], tuple[int, ...]]
    """Subject and relation to all objects of best rank."""
    statements: dict[tuple[int, str, int], list[Statement]]


class Spool:
    """Rows of one dump.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def fill(
        cls,
        folder: Path,
        dump: Path,
        wanted: Wanted,
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
        block: int = BLOCK,
    ) -> "Spool":
        """Stream a dump into a folder.

        Raises:
            BadInput: there is no such dump, or it is cut off.
        """
        folder.mkdir(parents=True)
        done, full = 0, False
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            stream = stack.enter_context(open_dump(dump))
            for size, rows in map_blocks(partial(_sized_rows, wanted=wanted), entity_blocks(stream, block), workers):
                for number, row in rows:
                    name = {b"L": "labels", b"R": "redirects"}.get(row[:1], f"{number % PARTS:03}")
                    if name not in files:
                        files[name] = stack.enter_context((folder / name).open("wb"))
                    files[name].write(row + b"\n")
                    if row[:1] == b"S":
                        full = True
                done += size
                if progress is not None:
                    progress(done)
        if full:
            (folder / "statements").touch()
        return cls(folder)

    @property
    def has_statements(self) -> bool:
        """Whether the dump was a full one."""
        return (self._folder / "statements").exists()

    def part(self, number: int, relations: Collection[str]) -> Part:
        """Read the facts of relations of the subjects whose number has this rest."""
        part = Part({}, {})
        for cells in self._rows(f"{number:03}"):
            subject, relation, object = int(cells[1]), intern(cells[2].decode()), int(cells[3])
            if relation not in relations:
                continue
            if cells[0] == b"F":
                known = part.objects.get((subject, relation), ())
                part.objects[subject, relation] = known if object in known else (*known, object)
            else:
                rank, start, end = (cell.decode() for cell in cells[4:7])
                made = Statement(rank, start, end, bool(cells[7]))
                part.statements.setdefault((subject, relation, object), []).append(made)
        return part

    def labels(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield number, language and escaped label of every entity."""
        yield from ((int(cells[1]), cells[2].decode(), cells[3]) for cells in self._rows("labels"))

    def redirects(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of entities that became others, and of those."""
        yield from ((int(cells[1]), int(cells[2])) for cells in self._rows("redirects"))

    def _rows(self, name: str) -> Iterator[list[bytes]]:
        path = self._folder / name
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield line.rstrip(b"\n").split(b"\t")


def _sized_rows(block: bytes, wanted: Wanted) -> tuple[int, list[tuple[int, bytes]]]:
    return len(block), pick_rows(block, wanted)
