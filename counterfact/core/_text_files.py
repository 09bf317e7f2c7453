"""Texts in files, one after the other: what cannot be read costs itself and is noted."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINES = (".txt", ".raw", ".tokens")
"""One text a line; the last two are what wikitext's files are called."""
NOTED = 20
"""So many of a source's faults are kept with place and reason; the rest is counted."""


@dataclass
class Unreadable:
    """Lines, rows and files that the latest reading of a source could not read, up to where it has come."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Place and reason of the first 20."""

    def add(self, place: str, reason: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < NOTED:
            self.first.append(f"{place}: {reason}")

    def clear(self) -> None:
        """Begin again, as a reading does."""
        self.count = 0
        self.first.clear()


def is_text_file(path: Path) -> bool:
    """Return whether the name says that `read_texts` can read it."""
    return path.is_file() and _kind(path) in {*LINES, ".jsonl", ".parquet"}


def read_texts(file: Path, unreadable: Unreadable) -> Iterator[str]:
    """Yield a file's texts that are not blank."""
    kind = _kind(file)
    if kind == ".parquet":
        yield from _rows(file, unreadable)
        return
    parse: Callable[[str], Any] = _text_of if kind == ".jsonl" else str
    for place, line in _lines(file, unreadable):
        try:
            text = parse(line.decode().rstrip("\r\n"))
        except ValueError as error:  # bytes that are not UTF-8, text that is not JSON, JSON without a text
            unreadable.add(place, str(error))
            continue
        if text.strip():
            yield text


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def _text_of(line: str) -> str:
    if not line.strip():
        return ""
    value = json.loads(line)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError("expected an object with a `text`")
    value["text"].encode()  # half of a surrogate pair is JSON, and no text
    return str(value["text"])


def _lines(file: Path, unreadable: Unreadable) -> Iterator[tuple[str, bytes]]:
    number = 0
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                yield f"{file.name}:{number}", line
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            unreadable.add(f"{file.name}, all after line {number}", str(error))


def _rows(file: Path, unreadable: Unreadable) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        opened = pq.ParquetFile(file)
        if "text" not in opened.schema_arrow.names:
            unreadable.add(file.name, f"expected a column `text`, got {', '.join(opened.schema_arrow.names)}")
            return
        for batch in opened.iter_batches(batch_size=256, columns=["text"]):
            for value in batch.column(0):
                number += 1
                yield from row_text(f"{file.name}, row {number}", value.as_py, unreadable)
    except (pa.ArrowException, OSError) as error:
        unreadable.add(f"{file.name}, all after row {number}", str(error))


def row_text(place: str, read: Callable[[], Any], unreadable: Unreadable) -> Iterator[str]:
    """Yield a row's text, or nothing where it is blank, or no text."""
    try:
        text = read()
    except UnicodeDecodeError as error:
        unreadable.add(place, str(error))
        return
    if not isinstance(text, str):
        unreadable.add(place, f"expected a text, got {type(text).__name__}")
    elif text.strip():
        yield text
