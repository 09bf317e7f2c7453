"""Read files that strangers wrote: bounded, strict, and with a reason of its own for everything that is refused.

Nothing here trusts a length, a name or a number; nothing that is read is ever run, opened as a path or rendered.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput

RUN_BYTES = 1 << 20
"""Largest `run.json`."""
PACKED_BYTES = 1 << 27
"""Largest per-record file as it lies on the disk: five times what 21,919 records with texts take."""
UNPACKED_BYTES = 1 << 29
"""Largest per-record file once unpacked."""
LINE_BYTES = 1 << 18
LINES = 50_000
DEPTH = 12
DIGITS = 18
MAGNITUDE = 1e15
TEXT = 20_000
"""Letters of the longest string."""
GZIP = 31
"""zlib's window bits for a gzip member."""
BLOCK = 1 << 16
MARKUP = re.compile(r"<[a-zA-Z/!?]|(?:java|vb)script:|data:text/html|&(?:#|lt;|gt;)", re.I)
"""What a browser could take for HTML, an entity or a script."""
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, marks that turn the direction of writing, and halves of letters."""
SUSPECTS = ("<", "&", "cript:", "text/html", "\\u", "\\b", "\\f", "\x7f")
"""Without these in its source, lower case, no text of ASCII letters in JSON can be `MARKUP` or `UNSEEN`."""


class Refused(BadInput):
    """A submission that is not taken; `code` is the reason in one word, the message says it in full."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def read_run_file(path: Path) -> Any:
    """Return what a `run.json` holds.

    Raises:
        Refused: it is too large, not UTF-8, not strict JSON, too deep, or holds a number or a text that no run has.
    """
    if (size := path.stat().st_size) > RUN_BYTES:
        raise Refused("too-large", f"{path.name} has {size} bytes, at most {RUN_BYTES} are read")
    return parse(path.read_bytes(), path.name)


def read_lines(path: Path) -> Iterator[Any]:
    """Yield what the lines of a gzipped JSON-lines file hold, unpacking only as far as the limits go.

    Raises:
        Refused: as `read_run_file`; and not gzip, cut off, or larger unpacked than any honest file.
    """
    if (size := path.stat().st_size) > PACKED_BYTES:
        raise Refused("too-large", f"{path.name} has {size} bytes, at most {PACKED_BYTES} are read")
    for number, line in enumerate(_split(path), 1):
        if number > LINES:
            raise Refused("too-many-lines", f"{path.name} has more than {LINES} lines")
        if line.strip():
            yield parse(line, f"{path.name}:{number}")


def parse(data: bytes, where: str) -> Any:
    """Return strict JSON: UTF-8, no NaN, no key twice, bounded depth, numbers and texts, no markup.

    >>> parse(b'{"a": [1, 2.5]}', "x")
    {'a': [1, 2.5]}
    >>> parse(b'{"a": NaN}', "x")
    Traceback (most recent call last):
    counterfact.leaderboard.reading.Refused: not-a-number: x: NaN is no JSON number
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("not-utf-8", f"{where}: byte {error.start} is not UTF-8") from error

    def constant(name: str) -> Any:
        raise Refused("not-a-number", f"{where}: {name} is no JSON number")

    def integer(digits: str) -> int:
        if len(digits) > DIGITS:
            raise Refused("huge-number", f"{where}: an integer of {len(digits)} digits")
        return int(digits)

    def fraction(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value) or abs(value) > MAGNITUDE:
            raise Refused("huge-number", f"{where}: {digits[:24]} is larger than {MAGNITUDE:g}")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise Refused("key-twice", f"{where}: an object holds a key twice")
        return found

    try:
        value = json.loads(
            text, parse_constant=constant, parse_int=integer, parse_float=fraction, object_pairs_hook=once
        )
    except json.JSONDecodeError as error:
        raise Refused("not-json", f"{where}: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise Refused("too-deep", f"{where}: nested deeper than {DEPTH}") from error
    _examine(value, where, harmless=_is_harmless(text))
    return value


def _is_harmless(source: str) -> bool:
    """Whether JSON is seen at a glance to hold no markup and no unseen letter: most is, and is then read twice as fast.

    >>> _is_harmless('{"a": "b"}'), _is_harmless('{"a": "\\\\u003cb"}'), _is_harmless('{"a": "é"}')
    (True, False, False)
    """
    lower = source.lower()
    return source.isascii() and not any(suspect in lower for suspect in SUSPECTS)


def _examine(value: Any, where: str, harmless: bool) -> None:
    """Raise for depth and for texts that could do harm; keys are texts too."""
    level = [value]
    for _ in range(DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not harmless or len(item) > TEXT:
                    _examine_text(item, where)
            elif isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        if not inner:
            return
        level = inner
    raise Refused("too-deep", f"{where}: nested deeper than {DEPTH}")


def _examine_text(text: str, where: str) -> None:
    if len(text) > TEXT:
        raise Refused("long-text", f"{where}: a text of {len(text)} letters, at most {TEXT} are read")
    if found := MARKUP.search(text):
        raise Refused("markup", f"{where}: {found.group()!r} could be markup or a script")
    if found := UNSEEN.search(text):
        raise Refused("unseen-letters", f"{where}: {found.group()!r} is a control character")


def _split(path: Path) -> Iterator[bytes]:
    rest = b""
    for block in _unpack(path):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES:
            raise Refused("long-line", f"{path.name}: a line of more than {LINE_BYTES} bytes")
    if rest:
        yield rest


def _unpack(path: Path) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(GZIP)
    total = 0
    with path.open("rb") as file:
        packed = file.read(BLOCK)
        while True:
            try:
                block = unpacker.decompress(packed, BLOCK)
            except zlib.error as error:
                raise Refused("not-gzip", f"{path.name}: {error}") from error
            total += len(block)
            if total > UNPACKED_BYTES:
                raise Refused("zip-bomb", f"{path.name} unpacks to more than {UNPACKED_BYTES} bytes")
            yield block
            if unpacker.eof:
                break
            packed = unpacker.unconsumed_tail or file.read(BLOCK)
            if not packed and not block:
                raise Refused("cut-off", f"{path.name} ends before its gzip member does")
        if unpacker.unused_data or file.read(1):
            raise Refused("trailing-bytes", f"{path.name}: bytes follow the end of the gzip member")
