"""Plain texts from anywhere: what second moments and context sentences are read from."""

import gzip
import json
import logging
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import hash_file
from counterfact.core.places import EMBEDDED_TEXTS, check_hub_name, data_folder

log = logging.getLogger(__name__)

EXPECTED = "a .txt, .raw, .tokens, .jsonl (or these with .gz) or .parquet file, a folder of them, or a Hub id"
MOMENTS = {".safetensors", ".npz"}
BUFFER = 10_000
"""Rows of a Hub's data set among which the next one is drawn, where its order is random."""
_HUB = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")
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


def _unknown() -> int | None:
    return None


@dataclass(frozen=True)
class TextSource:
    """Texts that can be read again and again, in one order."""

    name: str
    content_hash: str
    texts: Callable[[], Iterator[str]]
    size: Callable[[], int | None] = _unknown
    """How many texts there are, where that can be told; reads a local source once."""
    unreadable: Unreadable = field(default_factory=Unreadable, compare=False)
    """What the latest reading could not read."""
    moments: tuple[Path, ...] = ()
    """Files of second moments that were given in place of texts; there are no texts then."""


def load_texts(source: str | Path) -> TextSource:
    """Open a source of texts.

    A line, row or file that cannot be read costs itself: it is counted in `unreadable`, and the log says so.

    Args:
        source: a `.txt`, `.raw` or `.tokens` file (one text a line), a `.jsonl` file (key `text`), either of them with
            `.gz`, a `.parquet` file (column `text`), a folder of such files (read in the order of their names),
            `embedded` (the articles in this repository), or a data set on the Hub with a column `text`, as `name`,
            `name:config` or `name:config@revision`, streamed, its `train` split. `#7` at the end of any of these: in
            the random order of seed 7; a local source is held in memory for that, of a Hub's data set the order of
            files is random and that of rows within 10,000 neighbors. A file or folder of second moments
            (`.safetensors`, `.npz`) is taken where second moments are requested.

    Raises:
        BadInput: there are no such texts.
    """
    text = str(source)
    ordered, mark, seed = text.rpartition("#")
    if mark and seed.isdigit() and not Path(text).exists():
        return _shuffled(ordered, int(seed))
    is_embedded = text == EMBEDDED_TEXTS
    path = data_folder() / "articles" if is_embedded else Path(source)
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    if files := [file for file in inside if is_text_file(file)]:
        return _file_texts(text if is_embedded else path.name, files)
    if given := [file for file in inside if file.is_file() and file.suffix in MOMENTS]:
        return TextSource(path.name, _hash(given), lambda: _no_texts(path), moments=tuple(given))
    if path.exists() or text.startswith((".", "/")):
        raise BadInput(f"no texts at {source}: expected {EXPECTED}")
    return _hub_texts(text)


def _hash(files: list[Path]) -> str:
    return sha256("".join(map(hash_file, files)).encode()).hexdigest()


def _file_texts(name: str, files: list[Path]) -> TextSource:
    unreadable = Unreadable()

    def read() -> Iterator[str]:
        unreadable.clear()
        for file in files:
            yield from read_texts(file, unreadable)
        _report(name, unreadable)

    return TextSource(name, _hash(files), read, lambda: sum(1 for _ in read()), unreadable)


def _no_texts(path: Path) -> Iterator[str]:
    raise BadInput(f"{path} holds second moments, and texts are needed here: expected {EXPECTED}")


def _report(name: str, unreadable: Unreadable) -> None:
    if unreadable.count:
        log.warning("%s: %d texts cannot be read; the first: %s", name, unreadable.count, unreadable.first[0])


def _shuffled(name: str, seed: int) -> TextSource:
    source = load_texts(name)
    if source.moments:
        raise BadInput(f"{name} holds second moments, which have no order; leave out #{seed}")
    digest = sha256(f"{source.content_hash}\x1f{seed}".encode()).hexdigest()
    if isinstance(source, _HubSource):
        return source.shuffled(digest, seed)

    def read() -> Iterator[str]:
        texts = list(source.texts())
        random.Random(seed).shuffle(texts)
        yield from texts

    return TextSource(f"{source.name}#{seed}", digest, read, source.size, source.unreadable)


@dataclass(frozen=True)
class _HubSource(TextSource):
    rows: Any = None
    """An `IterableDataset`."""

    @classmethod
    def of(cls, name: str, digest: str, rows: Any, size: int | None) -> "_HubSource":
        unreadable = Unreadable()
        return cls(name, digest, lambda: _read_rows(name, rows, unreadable), lambda: size, unreadable, rows=rows)

    def shuffled(self, digest: str, seed: int) -> TextSource:
        return self.of(f"{self.name}#{seed}", digest, self.rows.shuffle(seed=seed, buffer_size=BUFFER), self.size())


def _hub_texts(source: str) -> TextSource:
    asked = _HUB.fullmatch(source)
    if asked is None:
        raise BadInput(f"no texts at {source}: expected {EXPECTED}, as name, name:config or name:config@revision")
    check_hub_name(asked["id"])
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
        from huggingface_hub import HfApi  # noqa: PLC0415
    except ImportError as error:
        raise BadInput(f"no file or folder {source}; reading it from the Hub needs `pip install datasets`") from error
    try:
        commit = HfApi().dataset_info(asked["id"], revision=asked["revision"]).sha
        loaded = datasets.load_dataset(asked["id"], asked["config"], revision=commit, streaming=True)
    except Exception as error:
        raise BadInput(f"no file or folder {source}, and the Hub gave no texts of that name: {error}") from error
    split = "train" if "train" in loaded else next(iter(loaded))
    rows = loaded[split]
    if rows.features is not None and "text" not in rows.features:
        raise BadInput(f"{source}: expected a column `text`, got {', '.join(rows.features)}")
    told = (rows.info.splits or {}).get(split)
    config = rows.info.config_name or "default"
    digest = sha256("\x1f".join((asked["id"], config, split, str(commit))).encode()).hexdigest()
    name = asked["id"] + (f":{asked['config']}" if asked["config"] else "") + f"@{str(commit)[:8]}"
    return _HubSource.of(name, digest, rows, told.num_examples if told else None)


def _read_rows(name: str, rows: Any, unreadable: Unreadable) -> Iterator[str]:
    unreadable.clear()
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield from row_text(f"row {number}", partial(row.get, "text"), unreadable)
    except Exception as error:
        raise Failed(f"{name}: after row {number} the Hub gave no more: {error}; run it again to go on") from error
    _report(name, unreadable)


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
