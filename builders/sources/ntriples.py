"""A slice of WikiData as N-Triples, a statement a line: facts, labels, which articles are about what, sitelinks."""

import gzip
from collections.abc import Iterable
from pathlib import Path

from counterfact.core.files import write_atomic

from .queries import ABOUT, DIRECT, ENTITY, LABEL, SITELINKS, literal

_INTEGER = "http://www.w3.org/2001/XMLSchema#integer"


def fact_line(subject: str, relation: str, object: str) -> str:
    """Return a fact.

    >>> print(fact_line("Q1", "P31", "Q2"), end="")
    <http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P31> <http://www.wikidata.org/entity/Q2> .
    """
    return f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n"


def label_line(entity: str, label: str, language: str) -> str:
    """Return an entity's label."""
    return f"<{ENTITY}{entity}> <{LABEL}> {literal(label)}@{language} .\n"


def about_line(article: str, entity: str) -> str:
    """Return that an article, by its IRI, is about an entity."""
    return f"<{article}> <{ABOUT}> <{ENTITY}{entity}> .\n"


def sitelinks_line(entity: str, count: int) -> str:
    """Return how many sitelinks an entity has."""
    return f'<{ENTITY}{entity}> <{SITELINKS}> "{count}"^^<{_INTEGER}> .\n'


def write_slice(path: Path, lines: Iterable[str]) -> int:
    """Write a slice, sorted, each statement once; gzipped where the name ends in `.gz`, equal bytes for equal lines.

    Returns:
        how many statements it has.
    """
    ordered = sorted(set(lines))
    data = "".join(ordered).encode()
    write_atomic(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return len(ordered)
