"""What every source of facts gives, and the source that is local files, opened in process with pyoxigraph.

All sources answer the same SPARQL text with SPARQL 1.1 Query Results JSON
(https://www.w3.org/TR/sparql11-results-json/), which is read in one place, strictly: an answer that is not whole
raises, so that a failure is never taken for "no facts".
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, cast

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file

from .facts_table import read_facts_table

if TYPE_CHECKING:
    from pyoxigraph import Store

_SUFFIXES = (".nt", ".ttl", ".tsv")
_GENID = "/.well-known/genid/"


class SourceError(RuntimeError):
    """A source of facts could not answer; the message says what came and what to do."""


class TooMuch(SourceError):
    """What was asked is more than the source bears at once: ask for less."""


class Answer(NamedTuple):
    """The rows of one answer, in its order."""

    rows: list[dict[str, str]]
    """Variable to value, as a plain string; a variable that is not bound is absent."""
    unknown: int
    """Rows left out because a value in them is unknown: a blank node, or WikiData's stand-in for one."""


class SparqlSource(Protocol):
    """Where facts come from."""

    def select(self, query: str, *, divisible: bool = False) -> Answer:
        """Answer a SELECT query.

        Args:
            query: plain SPARQL 1.1.
            divisible: whether the caller can ask for less at a time.

        Raises:
            TooMuch: a divisible query is more than the source bears.
            SourceError: there is no answer.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Say what this source is and what was taken from it; `files` with hashes where that is known in advance."""
        ...


def read_answer(body: bytes, where: str) -> Answer:
    """Read SPARQL JSON results.

    Args:
        body: the whole answer.
        where: the source, for messages.

    Raises:
        TooMuch: it is cut off, or ends in something else, as where a server ran out of time while it answered.
        SourceError: it is JSON of another form.

    >>> read_answer(b'{"head":{"vars":["s"]},"results":{"bindings":[{"s":{"type":"uri","value":"urn:a"}}]}}', "here")
    Answer(rows=[{'s': 'urn:a'}], unknown=0)
    """
    try:
        value = json.loads(body)
    except ValueError as error:
        raise TooMuch(
            f"{where}: expected SPARQL JSON results, got {len(body)} bytes that are cut off ({error}); they end in "
            f"{body[-80:]!r}. Nothing was taken from them"
        ) from error
    try:
        variables = set(value["head"]["vars"])
        bindings = [
            {name: (term["type"], term["value"]) for name, term in binding.items()}
            for binding in value["results"]["bindings"]
        ]
        if not all(set(binding) <= variables for binding in bindings):
            raise KeyError("a variable that `head` does not name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{where}: expected SPARQL JSON results, got JSON of another form ({type(error).__name__}: {error}): "
            f"{body[:80]!r}. Nothing was taken from it; look whether this is the address of a SPARQL endpoint"
        ) from error
    known = [binding for binding in bindings if not any(_is_unknown(*term) for term in binding.values())]
    rows = [{name: text for name, (_, text) in binding.items()} for binding in known]
    return Answer(rows, len(bindings) - len(known))


def _is_unknown(kind: str, text: str) -> bool:
    return kind == "bnode" or (kind == "uri" and _GENID in text)


@dataclass(frozen=True)
class StoreSource:
    """Facts in local files, opened in process with pyoxigraph when first asked."""

    files: tuple[Path, ...]

    @classmethod
    def open(cls, *paths: Path) -> "StoreSource":
        """Take files, and all such files of folders: `.nt`, `.ttl`, `.tsv` (a facts table), each also as `.gz`.

        Raises:
            BadInput: a path is missing, holds none, or is of another form.
        """
        files = [file for path in paths for file in _fact_files(path)]
        return cls(tuple(sorted(set(files))))

    def select(self, query: str, *, divisible: bool = False) -> Answer:  # noqa: ARG002
        """Answer a SELECT query from the files, however big the answer."""
        from pyoxigraph import QueryResultsFormat, QuerySolutions  # noqa: PLC0415

        store = self._store
        try:
            solutions = store.query(query)
        except (SyntaxError, ValueError, OSError) as error:
            raise SourceError(f"the local store could not answer: {error}. The query was:\n{query}") from error
        if not isinstance(solutions, QuerySolutions):
            raise SourceError("expected a SELECT query")
        body = cast(bytes, solutions.serialize(format=QueryResultsFormat.JSON))
        return read_answer(body, "the local store")

    def identity(self) -> dict[str, Any]:
        """Name and sha256 of every file."""
        return {"kind": "files", "files": hash_files(self.files)}

    @cached_property
    def _store(self) -> "Store":
        from pyoxigraph import Store  # noqa: PLC0415

        store = Store()
        for file in self.files:
            _load(store, file)
        store.optimize()
        return store


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
            with _open(file) as stream:
                store.bulk_load(stream, form)
    except (SyntaxError, EOFError, OSError) as error:
        raise BadInput(f"{file}: not the facts its name promises: {error}") from error


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb"))
