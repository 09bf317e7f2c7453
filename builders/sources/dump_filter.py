"""The lines of a WikiData truthy dump that a slice may need, filtered block by block by any number of workers.

The dump (https://www.wikidata.org/wiki/Wikidata:Database_download, latest-truthy.nt) holds the statements of best rank
as `wdt:` triples, labels in all languages and much else, all lines of an entity together. An unknown value is a blank
node or a `.well-known/genid` IRI; letters outside ASCII may come as `\\u` escapes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from .labels import clean_label
from .queries import ABOUT, ALIAS, DIRECT, ENTITY, LABEL, SITELINKS

_ENTITY = ENTITY.encode()
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_LETTERS = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}


class FilteredBlock(NamedTuple):
    """Lines of a block that a slice may need, and counts of what was seen."""

    lines: bytes
    counts: dict[str, int]


@dataclass(frozen=True)
class LineFilter:
    """Lines that a slice may need."""

    relations: frozenset[str]
    labels: frozenset[str]
    """Labels of subjects and objects of tuples: entities with one are kept although they have no fact."""
    language: str = "en"
    site: str | None = None
    """Beginning of the IRIs of articles; None for no articles."""
    kinds: frozenset[str] = frozenset()
    """Relations that say what an entity is or does, P31 and P106: kept of entities that are kept anyway."""

    def pattern(self) -> re.Pattern[bytes]:
        """Return the pattern of such a line: facts, names in the language or `mul`, sitelinks, kinds, articles."""
        relations = "|".join(sorted(relation[1:] for relation in self.relations))
        entity = f"<{re.escape(ENTITY)}(Q[0-9]+)>"
        fact = rf"<{re.escape(DIRECT)}P(?:{relations})> (?:<{re.escape(ENTITY)}(Q[0-9]+)>|.*?)"
        label = rf'<{re.escape(LABEL)}> "((?:[^"\\]|\\.)*)"@({re.escape(self.language)}|mul)'
        kinds = "".join(
            rf"|<{re.escape(DIRECT)}{relation}> <{re.escape(ENTITY)}Q[0-9]+>"
            for relation in sorted(self.kinds - self.relations)
        )
        links = rf"(<{re.escape(SITELINKS)}> .*?{kinds})"
        alias = rf'(<{re.escape(ALIAS)}>) "((?:[^"\\]|\\.)*)"@(?:{re.escape(self.language)}|mul)'
        line = rf"{entity} (?:{fact}|{label}|{links}|{alias}) \."
        if self.site is not None:
            line += rf"|(<{re.escape(self.site)}[^>]*> <{re.escape(ABOUT)}> <{re.escape(ENTITY)}Q[0-9]+> \.)"
        return re.compile(f"^(?:{line})$".encode(), re.M)


def entity_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield a dump in blocks of about `size` bytes, each of whole entities; an entity's lines are held together."""
    left = b""
    while chunk := stream.read(size):
        left += chunk
        end = left.rfind(b"\n") + 1
        last = left.rfind(b"\n<" + _ENTITY, 0, end)
        if last < 0:
            continue
        subject = left[last + 1 : left.index(b"> ", last) + 2]
        start = left.find(b"\n" + subject) + 1
        if start > 1 and not left.startswith(subject):
            yield left[:start]
            left = left[start:]
    if left:
        yield left if left.endswith(b"\n") else left + b"\n"


def filter_block(block: bytes, wanted: LineFilter) -> FilteredBlock:
    """Return the lines of a block that may be needed: of entities with a fact, and of those with a wanted label."""
    counts: Counter[str] = Counter(bytes=len(block))
    kept: list[bytes] = []
    current, facts, links = b"", list[bytes](), list[bytes]()
    labels: dict[bytes, tuple[bytes, bytes]] = {}
    aliased = False

    def finish() -> None:
        own = labels.get(wanted.language.encode()) or labels.get(b"mul")
        if facts or aliased or (own and clean_label(read_label(own[0])) in wanted.labels):
            kept.extend([*([own[1]] if own else []), *facts, *links])
            counts["labels from mul"] += bool(own) and wanted.language.encode() not in labels
            counts["entities without a label"] += not own
        for held in (facts, links, labels):
            held.clear()

    for match in wanted.pattern().finditer(block):
        entity, object, label, language = match.group(1, 2, 3, 4)
        line = match.group()
        if entity is None:
            kept.append(line)
            continue
        if entity != current:
            finish()
            current, aliased = entity, False
        if language is not None:
            labels.setdefault(language, (label, line))
        elif match[5] is not None or match[6] is not None:
            links.append(line)
            aliased = aliased or (match[7] is not None and read_label(match[7]) in wanted.labels)
        elif object is not None:
            facts.append(line)
        else:
            counts["facts with an unknown value"] += 1
    finish()
    return FilteredBlock(b"".join(line + b"\n" for line in kept), dict(counts))


def read_label(escaped: bytes) -> str:
    r"""Return a literal's text.

    >>> read_label(b'the \\"Ring\\" \\u00E9')
    'the "Ring" é'
    """
    text = escaped.decode()
    return _ESCAPE.sub(lambda match: _letter(match[1]), text) if "\\" in text else text


def _letter(escape: str) -> str:
    return chr(int(escape[1:], 16)) if escape[0] in "uU" and len(escape) > 1 else _LETTERS.get(escape, escape)
