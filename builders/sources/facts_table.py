"""A table of facts, one a line, as N-Triples: the form in which facts of other collections come.

Columns, tab between them, named in the first line: `subject_id subject_label property_id object_id object_label`;
further columns are passed over. A label given for an entity more than once is stated once.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from counterfact.core.errors import BadInput

from .queries import DIRECT, ENTITY, LABEL, literal

_COLUMNS = ["subject_id", "subject_label", "property_id", "object_id", "object_label"]
_FACT = re.compile(r"Q[0-9]+\tP[0-9]+\tQ[0-9]+")


def read_facts_table(path: Path) -> bytes:
    """Return the statements and English labels of a table, as N-Triples.

    Args:
        path: a `.tsv` file, or `.tsv.gz`.

    Raises:
        BadInput: the first line lacks a column, or a line is no fact; file and line are named.
    """
    lines = dict.fromkeys(line for row in _rows(path) for line in _triples(*row))
    return "".join(lines).encode()


def _rows(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split("\t")
        if header[: len(_COLUMNS)] != _COLUMNS:
            raise BadInput(f"{path}:1: expected the columns {', '.join(_COLUMNS)}, got {', '.join(header)}")
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\n").split("\t")
            if len(cells) != len(header) or not _FACT.fullmatch(f"{cells[0]}\t{cells[2]}\t{cells[3]}"):
                raise BadInput(f"{path}:{number}: expected {len(header)} cells with ids of WikiData, got {line!r}")
            yield cells[0], cells[1], cells[2], cells[3], cells[4]


def _triples(subject: str, subject_label: str, relation: str, object: str, object_label: str) -> Iterator[str]:
    yield f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n"
    yield f"<{ENTITY}{subject}> <{LABEL}> {literal(subject_label)}@en .\n"
    yield f"<{ENTITY}{object}> <{LABEL}> {literal(object_label)}@en .\n"
