"""The contract of a SPARQL source: SELECT queries in, rows out, or an error.

All sources answer the same SPARQL text with SPARQL 1.1 Query Results JSON
(https://www.w3.org/TR/sparql11-results-json/), which is read in one place, strictly: an answer that is not whole
raises, so that a failure is never taken for "no facts".
"""

import json
from typing import Any, NamedTuple, Protocol

from counterfact.core.errors import Failed

_GENID = "/.well-known/genid/"


class SourceError(Failed):
    """Failure of a source of facts to answer; the message says what came and what to do."""


class QueryTooLarge(SourceError):
    """A query that is more than the source can answer at once; a smaller one may succeed."""


class QueryResult(NamedTuple):
    """Rows of one answer, in its order."""

    rows: list[dict[str, str]]
    """Variable to value, as a plain string; a variable that is not bound is absent."""
    unknown: int
    """Rows left out because a value in them is unknown: a blank node, or WikiData's stand-in for one."""


class SparqlSource(Protocol):
    """A store of facts that answers SPARQL: an endpoint, or local files."""

    def select(self, query: str, *, divisible: bool = False) -> QueryResult:
        """Answer a SELECT query.

        Args:
            query: plain SPARQL 1.1.
            divisible: whether the caller can send smaller queries instead.

        Raises:
            QueryTooLarge: a divisible query is more than the source bears.
            SourceError: there is no answer.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Return what this source is and what was taken from it; `files` with hashes where that is known in advance."""
        ...


def read_results(body: bytes, where: str) -> QueryResult:
    """Read SPARQL JSON results.

    Args:
        body: the whole answer.
        where: the source, for messages.

    Raises:
        QueryTooLarge: it is cut off, or ends in something else, as where a server ran out of time while it answered.
        SourceError: it is something else than JSON, by its first byte, or JSON of another form.

    >>> read_results(b'{"head":{"vars":["s"]},"results":{"bindings":[{"s":{"type":"uri","value":"urn:a"}}]}}', "here")
    QueryResult(rows=[{'s': 'urn:a'}], unknown=0)
    """
    if body.strip() and not body.lstrip().startswith(b"{"):
        raise SourceError(
            f"{where}: expected SPARQL JSON results, got something else, which begins with {body.lstrip()[:60]!r}. "
            "Nothing was taken from it; look whether this is the address of a SPARQL endpoint that answers in JSON"
        )
    try:
        value = json.loads(body)
    except ValueError as error:
        raise QueryTooLarge(
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
    return QueryResult(rows, len(bindings) - len(known))


def _is_unknown(kind: str, text: str) -> bool:
    return kind == "bnode" or (kind == "uri" and _GENID in text)
