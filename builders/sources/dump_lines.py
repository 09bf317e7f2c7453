"""The file of lines of a dump that a slice may need, read again and again: facts, names, what stands above what."""

import gzip
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from .dump_filter import read_label
from .labels import clean_label
from .queries import ABOUT, ABOVE, ALIAS, DIRECT, ENTITY, LABEL
from .subject_kinds import SUBCLASS
from .surroundings import STEPS_UP

FACT = re.compile(f"<{ENTITY}(Q[0-9]+)> <{DIRECT}(P[0-9]+)> <{ENTITY}(Q[0-9]+)>".encode())
NAMED = re.compile(rf'<{ENTITY}(Q[0-9]+)> <{LABEL}> "(.*)"@[a-z0-9-]+ \.'.encode())
ABOUT_ENTITY = re.compile(f"<{ABOUT}> <{ENTITY}(Q[0-9]+)>".encode())
ALIASED = re.compile(rf'<{ENTITY}(Q[0-9]+)> <{ALIAS}> "(.*)"@[a-z0-9-]+ \.'.encode())
OF_ENTITY = re.compile(f"<{ENTITY}(Q[0-9]+)>".encode())

Fact = tuple[bytes, str, bytes]
"""Subject, relation and object."""


def facts(lines: Path) -> Iterator[Fact]:
    """Yield the facts of a file."""
    with gzip.open(lines) as file:
        yield from map(parts, filter(None, map(FACT.match, file)))


def parts(fact: re.Match[bytes]) -> Fact:
    """Return a fact of its match."""
    return fact[1], fact[2].decode(), fact[3]


def ids_by_label(lines: Path, names: frozenset[str]) -> dict[str, set[bytes]]:
    """Return the entities of each name: those that are called so, and those with it as another name."""
    ids: defaultdict[str, set[bytes]] = defaultdict(set)
    with gzip.open(lines) as file:
        for line in file:
            if match := NAMED.match(line):
                label = clean_label(read_label(match[2]))
            elif match := ALIASED.match(line):
                label = read_label(match[2])
            if match and label in names:
                ids[label].add(match[1])
    return ids


def below(lines: Path, objects: frozenset[bytes]) -> set[bytes]:
    """Return the entities from which a build asks for what is above, step by step as `query_above` does."""
    seen: set[bytes] = set()
    front = set(objects)
    for _ in range(STEPS_UP):
        seen |= front
        front = {above for entity, relation, above in facts(lines) if relation in ABOVE and entity in front} - seen
        if not front:
            break
    return seen


def and_above(lines: Path, belongs: Callable[[bytes, str], bool]) -> set[bytes]:
    """Return the classes that some facts lead to, and all that these are kinds of, up to the top.

    Args:
        lines: the file; the facts of P279 are copied out of it first, since it is a long way up.
        belongs: whether the object of a fact is such a class, by its subject and relation.
    """
    found: set[bytes] = set()
    tree = lines.with_name(f"{lines.name}.tree")
    try:
        with gzip.open(tree, "wb", compresslevel=1) as file:
            for subject, relation, object in facts(lines):
                if relation == SUBCLASS:
                    file.write(subject + b" " + object + b"\n")
                if belongs(subject, relation):
                    found.add(object)
        _climb(tree, found)
    finally:
        tree.unlink(missing_ok=True)
    return found


def _climb(tree: Path, found: set[bytes]) -> None:
    """Add to classes what is above them, until nothing new comes: several steps in one reading, where they stand so."""
    size = 0
    while size < len(found):
        size = len(found)
        with gzip.open(tree) as file:
            for line in file:
                class_, above = line.split()
                if class_ in found:
                    found.add(above)


def number(entity: bytes) -> int:
    """Return the number of an entity.

    >>> number(b"Q42")
    42
    """
    return int(entity[1:])
