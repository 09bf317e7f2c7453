"""Facts in local files, opened in process with pyoxigraph: N-Triples, Turtle, or a table of facts.

A table has one fact a line, in columns with a tab between them, named in the first line: `subject_id subject_label
property_id object_id object_label`, and perhaps `language`, that of the labels, which are English without it, and
`source`, where a line comes from; further columns are ignored. It is read as the N-Triples of its statements. Where
lines call an entity by several names, it is called as most sources do, then most lines; the others are its other names.
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file

from .labels import clean_label
from .ntriples import alias_line, fact_line, label_line
from .queries import LABEL, literal
from .sparql import QueryResult, SourceError, SparqlSource, read_results

if TYPE_CHECKING:
    from pyoxigraph import Store

_SUFFIXES = (".nt", ".ttl", ".tsv")
_COLUMNS = ["subject_id", "subject_label", "property_id", "object_id", "object_label"]
LANGUAGE = "language"
"""Name of a further column of a table: the language of both labels of a line; without it they are English."""
SOURCE = "source"
"""Name of a further column of a table: where a line comes from."""
_FACT = re.compile(r"Q[0-9]+\tP[0-9]+\tQ[0-9]+")


@dataclass(frozen=True)
class StoreSource:
    """Facts in local files, loaded into pyoxigraph at the first query."""

    files: tuple[Path, ...]

    @classmethod
    def open(cls, *paths: Path) -> "StoreSource":
        """Take files, and all such files of folders: `.nt`, `.ttl`, `.tsv` (a facts table), each also as `.gz`.

        Raises:
            BadInput: a path is missing, holds none, or is of another form.
        """
        files = [file for path in paths for file in _fact_files(path)]
        return cls(tuple(sorted(set(files))))

    def select(self, query: str, *, divisible: bool = False) -> QueryResult:  # noqa: ARG002
        """Answer a SELECT query from the files, however large the answer."""
        from pyoxigraph import QueryResultsFormat, QuerySolutions  # noqa: PLC0415

        store = self._store
        try:
            solutions = store.query(query)
        except (SyntaxError, ValueError, OSError) as error:
            raise SourceError(f"the local store could not answer: {error}. The query was:\n{query}") from error
        if not isinstance(solutions, QuerySolutions):
            raise SourceError("expected a SELECT query")
        body = cast(bytes, solutions.serialize(format=QueryResultsFormat.JSON))
        return read_results(body, "the local store")

    def identity(self) -> dict[str, Any]:
        """Return name and sha256 of every file."""
        return {"kind": "files", "files": hash_files(self.files)}

    @cached_property
    def _store(self) -> "Store":
        from pyoxigraph import Store  # noqa: PLC0415

        store = Store()
        for file in self.files:
            _load(store, file)
        store.optimize()
        return store


def check_language(source: SparqlSource, language: str) -> None:
    """Raise `BadInput` where facts in files have no label in a language at all; an endpoint is not asked."""
    if not isinstance(source, StoreSource):
        return
    tag = literal(language)
    query = (
        f'SELECT ?name WHERE {{ ?entity <{LABEL}> ?name . FILTER(LANG(?name) = {tag} || LANG(?name) = "mul") }} LIMIT 1'
    )
    if not source.select(query).rows:
        names = ", ".join(file.name for file in source.files)
        raise BadInput(
            f"no label in {language} in {names}: a table of facts is in English unless it has a column `{LANGUAGE}`; "
            "take facts with labels in that language (a slice of a dump made with --language, or an endpoint)"
        )


def hash_files(files: Sequence[Path]) -> dict[str, str]:
    """Return name to sha256, in the order of the names."""
    return {file.name: hash_file(file) for file in sorted(files, key=lambda file: file.name)}


def _fact_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _form(file) in _SUFFIXES)
    else:
        found = [path] if path.is_file() and _form(path) in _SUFFIXES else []
    if not found:
        raise BadInput(f"no facts at {path}: expected {', '.join(_SUFFIXES)} files (also .gz), or a folder of them")
    yield from found


def _form(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix


def _load(store: "Store", file: Path) -> None:
    from pyoxigraph import RdfFormat  # noqa: PLC0415

    form = RdfFormat.TURTLE if _form(file) == ".ttl" else RdfFormat.N_TRIPLES
    try:
        if _form(file) == ".tsv":
            store.bulk_load(read_facts_table(file), form)
        else:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                store.bulk_load(cast(BinaryIO, stream), form)
    except (SyntaxError, EOFError, OSError) as error:
        raise BadInput(f"{file}: not the facts its name promises: {error}") from error


def read_facts_table(path: Path) -> bytes:
    """Return the statements and labels of a table, as N-Triples; labels are cleaned, and kept where they name.

    Args:
        path: a `.tsv` file, or `.tsv.gz`.

    Raises:
        BadInput: the first line lacks a column, or a line is no fact; file and line are named.
    """
    lines: dict[str, None] = {}
    names: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for subject, subject_label, relation, object, object_label, language, source in _rows(path):
        lines[fact_line(subject, relation, object)] = None
        for entity, label in ((subject, subject_label), (object, object_label)):
            if (name := clean_label(label)) is not None:
                names.setdefault((entity, language), {}).setdefault(name, Counter())[source] += 1
    for (entity, language), called in names.items():
        own, *others = sorted(called, key=lambda name: (-len(called[name]), -called[name].total(), name))
        lines[label_line(entity, own, language)] = None
        lines.update((alias_line(entity, other, language), None) for other in others)
    return "".join(lines).encode()


def _rows(path: Path) -> Iterator[tuple[str, str, str, str, str, str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split("\t")
        if header[: len(_COLUMNS)] != _COLUMNS:
            raise BadInput(f"{path}:1: expected the columns {', '.join(_COLUMNS)}, got {', '.join(header)}")
        language, source = (header.index(name) if name in header else None for name in (LANGUAGE, SOURCE))
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\n").split("\t")
            if len(cells) != len(header) or not _FACT.fullmatch(f"{cells[0]}\t{cells[2]}\t{cells[3]}"):
                raise BadInput(f"{path}:{number}: expected {len(header)} cells with ids of WikiData, got {line!r}")
            written = "en" if language is None else cells[language]
            yield cells[0], cells[1], cells[2], cells[3], cells[4], written, "" if source is None else cells[source]
