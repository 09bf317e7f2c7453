"""A cache that keeps every decisive response of a server, raw, in one SQLite file: a build is a function of it.

A response is one row: address and request, the time, the status, the sha256 of the body and the body itself, deflated.
A row is written in one transaction, flushed to the disk: a process killed at any moment leaves all rows written before.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json

_SCHEMA = 1
_MADE_BY = 0x43464143  # "CFAC", in the header of the file
_TABLE = """CREATE TABLE IF NOT EXISTS responses (
  key TEXT PRIMARY KEY, endpoint TEXT NOT NULL, request TEXT NOT NULL, asked_at TEXT NOT NULL,
  status INTEGER NOT NULL, kind TEXT NOT NULL, sha256 TEXT NOT NULL, body BLOB NOT NULL
)"""
_COLUMNS = "key, endpoint, request, asked_at, status, kind, sha256, body"


class StoredResponse(NamedTuple):
    """A response in the cache."""

    endpoint: str
    """Address of the request."""
    request: str
    """Body of the request: a query, or the parameters of an API; empty for a plain page."""
    sent_at: str
    """When the request was sent, in ISO 8601, UTC."""
    status: int
    """HTTP status; 0 where nothing came in time."""
    content_type: str
    sha256: str
    """Hash of the body."""
    body: bytes


class ResponseCache:
    """Responses by endpoint and request, each stored once.

    Args:
        path: the file, made when missing.
        read_only: whether it must be there already, and nothing is stored.

    Raises:
        BadInput: the file is missing, damaged, of a newer version, or no cache of responses.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = Lock()
        if read_only and not path.is_file():
            raise BadInput(f"no cache of responses at {path}: run the build once without --replay, or name another one")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A journal left by a kill is rolled back on opening, which needs the right to write.
        mode = "ro" if read_only and not os.access(path, os.W_OK) else "rw" if read_only else "rwc"
        try:
            self._database = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=60, check_same_thread=False
            )
            self._check()
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{path}: expected a cache of responses: {error}") from error

    def _check(self) -> None:
        if self._is_ours():
            return
        with self._database:
            # Another process may be making the same file: look again once it is through.
            self._database.execute("BEGIN IMMEDIATE")
            if self._is_ours():
                return
            if self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise BadInput(f"{self.path}: an SQLite file of another program; choose another place for the cache")
            self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA application_id = {_MADE_BY}")
            self._database.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _is_ours(self) -> bool:
        made_by, version = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if made_by == _MADE_BY and version != _SCHEMA:
            raise BadInput(f"{self.path}: a cache of version {version}, and this program reads version {_SCHEMA}")
        return bool(made_by == _MADE_BY)

    def find(self, endpoint: str, request: str) -> StoredResponse | None:
        """Return what was stored for a request.

        Raises:
            BadInput: the row is damaged.
        """
        with self._lock:
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM responses WHERE key = ?", (response_key(endpoint, request),)
            ).fetchone()
        if row is None:
            return None
        try:
            body = zlib.decompress(row[-1])
        except zlib.error as error:
            raise BadInput(f"{self.path}: the response {row[0]} is damaged: {error}") from error
        if sha256(body).hexdigest() != row[-2]:
            raise BadInput(f"{self.path}: the response {row[0]} is damaged: its sha256 is not the one stored with it")
        _, endpoint, request, sent_at, status, content_type, digest, _ = row
        return StoredResponse(endpoint, request, sent_at, status, content_type, digest, body)

    def store(self, stored: StoredResponse) -> None:
        """Store a response, unless there is one for its request already."""
        row = (response_key(stored.endpoint, stored.request), *stored[:-1], zlib.compress(stored.body))
        with self._lock, self._database:
            self._database.execute(f"INSERT OR IGNORE INTO responses ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", row)

    def pack(self, target: Path, keys: Iterable[str]) -> None:
        """Copy the responses of the keys into a file of its own, which appears only when it is complete.

        Raises:
            BadInput: the target is this cache.
        """
        if target.resolve() == self.path.resolve():
            raise BadInput(f"{target} is the cache itself: pack it into another file")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            ResponseCache(temporary).close()
            with self._lock:
                self._database.execute("ATTACH ? AS packed", (str(temporary),))
                try:
                    with self._database:
                        self._database.executemany(
                            f"INSERT INTO packed.responses SELECT {_COLUMNS} FROM main.responses WHERE key = ?",
                            ((key,) for key in sorted(keys)),
                        )
                finally:
                    self._database.execute("DETACH packed")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def response_key(endpoint: str, request: str) -> str:
    """Return the key under which the response to a request lies."""
    return hash_json([endpoint, request])


def moment(seconds: float) -> str:
    """Return a time since 1970 as it is stored.

    >>> moment(0)
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
