"""What was read of runs before, by content: a board of thousands of runs is built again in seconds.

One SQLite file, in the cache. All of it can be made again; a damaged file is begun anew.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from counterfact.statistics.intervals import Rows

FILE = "runs.sqlite"
DAYS = 60
"""What was not on any board for so long is dropped."""
AT_ONCE = 500
"""SQLite takes so many names in one question at least."""
TABLES = """
create table if not exists runs (key text primary key, day text, run blob, cells text, scored int, records text,
                                 names text, "values" blob, detail blob);
create table if not exists records (name text primary key, day text, content blob);
"""


@dataclass(frozen=True)
class Kept:
    """What is kept of one run."""

    key: str
    run: Mapping[str, Any]
    """Its `run.json`."""
    cells: Mapping[str, list[Any]]
    """`[value, low, high, n]` of each column."""
    scored: int
    records: str
    """Name of the table of its records."""
    values: Mapping[str, Rows]
    """Per metric, shape (records of the split,)."""
    detail: str
    """What its own file of the site holds."""
    table: str
    """The table of its records, which runs on the same records share."""


class Shelf:
    """Runs that were read, by their keys.

    Args:
        path: of the file; None keeps it in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @cached_property
    def _base(self) -> sqlite3.Connection:
        if self._path is None:
            return _opened(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            base = _opened(str(self._path))
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            base = _opened(str(self._path))
        old = (datetime.now(UTC) - timedelta(days=DAYS)).date().isoformat()
        with suppress(sqlite3.OperationalError), base:  # locked by another build: it drops them
            for table in ("runs", "records"):
                base.execute(f"delete from {table} where day < ?", (old,))
        return base

    def add(self, kept: Iterable[Kept]) -> None:
        """Keep runs."""
        day = _today()
        with self._base as base:
            for one in kept:
                names = list(one.values)
                stacked = np.stack([one.values[name] for name in names]).astype(np.float64)
                base.execute("insert or replace into records values (?, ?, ?)", (one.records, day, _packed(one.table)))
                base.execute(
                    "insert or replace into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (one.key, day, _packed(json.dumps(one.run)), json.dumps(one.cells), one.scored, one.records,
                     json.dumps(names), stacked.tobytes(), _packed(one.detail)),
                )  # fmt: skip

    def touch(self, keys: list[str]) -> set[str]:
        """Return which of the keys are there, and note that they were asked for."""
        there: set[str] = set()
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            there |= {key for (key,) in self._base.execute(f"select key from runs where key in ({marks})", some)}
            with suppress(sqlite3.OperationalError), self._base as base:
                base.execute(f"update runs set day = ? where key in ({marks}) and day < ?", (_today(), *some, _today()))
        return there

    def head(self, key: str) -> tuple[dict[str, Any], dict[str, list[Any]], int, str]:
        """Return run file, cells, how many records were scored, and the name of the table of records."""
        run, cells, scored, records = self._one("select run, cells, scored, records from runs where key = ?", key)
        return json.loads(_unpacked(run)), json.loads(cells), scored, records

    def values(self, key: str) -> dict[str, Rows]:
        """Return per metric the value of every record of the split."""
        names, content = self._one('select names, "values" from runs where key = ?', key)
        listed = json.loads(names)
        return dict(zip(listed, np.frombuffer(content).reshape(len(listed), -1), strict=True))

    def detail(self, key: str) -> str:
        """Return what the run's own file of the site holds."""
        [content] = self._one("select detail from runs where key = ?", key)
        return _unpacked(content)

    def tables(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield names and contents of tables of records."""
        for name in sorted(set(names)):
            [content] = self._one("select content from records where name = ?", name)
            with suppress(sqlite3.OperationalError), self._base as base:
                base.execute("update records set day = ? where name = ? and day < ?", (_today(), name, _today()))
            yield name, _unpacked(content)

    def _one(self, question: str, name: str) -> Any:
        return self._base.execute(question, (name,)).fetchone()


def _opened(path: str) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=60)
    base.execute("pragma synchronous = off")  # all of it can be made again
    base.executescript(TABLES)
    return base


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _packed(text: str) -> bytes:
    return zlib.compress(text.encode(), 1)


def _unpacked(content: bytes) -> str:
    return zlib.decompress(content).decode()
