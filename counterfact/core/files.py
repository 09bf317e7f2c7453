"""Files that survive a kill: atomic writes, JSON without NaN, JSON lines with a torn tail mended, hashes."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value` that is hashed: sorted keys, no spaces, no NaN.

    >>> canonical_json({"b": 1, "a": "é"})
    '{"a":"é","b":1}'
    """
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_json(value: Any) -> str:
    """Return the sha256 of `canonical_json(value)`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finite(value: Any) -> float | None:
    """Return a number as files hold it: finite, and `None` for NaN, an infinity or anything else.

    >>> finite(2), finite(float("nan")), finite("2")
    (2.0, None, None)
    """
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of files that `write_atomic` has not finished."""


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` under a temporary name, flush it to the disk and rename it, so that no half file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def json_line(value: Any) -> str:
    """Return one line of a JSON-lines file, keys in the order given, newline included."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def indented_json(value: Any) -> str:
    """Return `value` as JSON for people to read, without NaN."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, indented_json(value))


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_atomic(path, "".join(map(json_line, values)))


def read_json(path: Path) -> Any:
    """Read a JSON file; a byte order mark is passed over.

    Raises:
        BadInput: the file is missing or is not JSON; the message holds its name, and what it is instead or the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}") from error
    except UnicodeDecodeError as error:
        raise BadInput(_instead(path) or f"{path} is not UTF-8 text: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(_instead(path) or _malformed(path, text, error)) from error


def read_jsonl(path: Path) -> Iterator[Any]:
    """Read one JSON value a line; empty lines and a byte order mark are passed over.

    Raises:
        BadInput: the file is missing, or a line is not JSON; the message holds the file and the line's number.
    """
    try:
        file = path.open(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}") from error
    with file:
        number = 0
        try:
            for number, line in enumerate(file, 1):  # noqa: B007
                if line.strip():
                    yield json.loads(line)
        except UnicodeDecodeError as error:
            raise BadInput(_instead(path) or f"{path}:{number + 1}: not UTF-8 text: {error}") from error
        except json.JSONDecodeError as error:
            hint = "; if it is one JSON value over several lines, name it .json" if number == 1 else ""
            raise BadInput(_instead(path) or f"{path}:{number}: not JSON: {error.msg}{hint}") from error


_BEGINNINGS = {
    rb"\s*version https://git-lfs\.github\.com/spec/": "a Git LFS pointer, which only names the file; run `git lfs "
    "pull` in the repository that it is from, or download the file itself",
    rb"\s*<(?:!doctype|html|head|body|\?xml)": "a web page, saved in place of the file; download it again, from the "
    "address of the file itself",
    rb"\x1f\x8b": "compressed by gzip; unpack it first",
    rb"PK\x03\x04": "a zip archive; unpack it first",
    rb"PAR1": "a Parquet file; write its rows as JSON lines first",
    rb"(?:\xff\xfe|\xfe\xff)": "text in UTF-16; save it as UTF-8",
}
"""What a file is whose first bytes match, and what to do about it."""


def _instead(path: Path) -> str | None:
    """Return what a file is that is no JSON, where its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(4096)
    if not start.strip():
        return f"{path} is empty; download or write it again"
    what = next((what for pattern, what in _BEGINNINGS.items() if re.match(pattern, start, re.IGNORECASE)), None)
    title = re.search(rb"<title[^>]*>\s*([^<]{1,100}?)\s*<", start, re.IGNORECASE)
    said = f" ({title[1].decode(errors='replace')!r})" if title else ""
    return None if what is None else f"{path}{said} is {what}"


def _malformed(path: Path, text: str, error: json.JSONDecodeError) -> str:
    more = text[error.pos : error.pos + 1] if error.msg == "Extra data" else ""
    if more == "[":
        return (
            f"{path}:{error.lineno}: a second JSON array begins here, as where two files were joined; put each into a "
            f"file of its own, or make one array of both: `jq -s add {path.name} > joined.json`"
        )
    if more == "{":
        return f"{path}:{error.lineno}: a second JSON object begins here; if each line is one, name the file .jsonl"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{path}:{error.lineno}: not JSON: it ends in the middle of a value; copy or download it again"
    return f"{path}:{error.lineno}: not JSON: {error.msg}"


def differences(name: str, before: Any, now: Any) -> list[str]:
    """Return where two JSON values differ, as dotted names that start with `name`.

    >>> differences("run", {"seed": 0, "model": {"name": "a"}}, {"seed": 0, "model": {"name": "b"}})
    ['run.model.name']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [found for key in keys for found in differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [] if before == now else [name]


@contextmanager
def one_writer(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep every other process out of a folder for the length of the block; a killed process lets go by itself.

    What a killed one left half-written in the folder, and in folders below it, is swept up.

    Raises:
        BadInput: another process holds it, and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows has no such lock; there one process at a time is up to the user.
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BadInput(f"another process is writing {folder}; wait for it, or stop it") from error
        for path in folder.rglob(".*"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink()
        yield
    finally:
        os.close(handle)


@contextmanager
def whole_folder(folder: Path, what: str) -> Iterator[Path]:
    """Fill a folder that appears as a whole at the end of the block, or not at all; yields the place to write to.

    Args:
        folder: the folder to make.
        what: what it will hold, for the message.

    Raises:
        BadInput: it holds something already.
    """
    folder = folder.resolve()
    check_no_content(folder, what)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in filter(Path.is_file, unfinished.rglob("*")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_no_content(folder: Path, what: str) -> None:
    """Raise `BadInput` where a folder that `what` is to be written to is a file, or holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} holds something else than {what}; name another folder")


class JsonLog:
    """A JSON-lines file that grows line by line and can be resumed after a kill at any moment.

    Opening it cuts off a last line that was not finished. `append` flushes to the disk, so that a line that
    `append` has returned from is never lost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._mend()

    def _mend(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                file.truncate(end)

    def read(self) -> list[Any]:
        """Return all finished lines."""
        return list(read_jsonl(self.path)) if self.path.exists() else []

    def append(self, values: Iterable[Any]) -> None:
        """Add lines, in one write, and flush them to the disk."""
        with self.path.open("ab") as file:
            file.write("".join(map(json_line, values)).encode())
            file.flush()
            os.fsync(file.fileno())


def disk_full(error: BaseException) -> bool:
    """Return whether an error says that there is no room: no fault of one item, it stops a run."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
