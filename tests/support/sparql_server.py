"""A SPARQL endpoint on loopback for tests, backed by pyoxigraph, on the server of `web_server`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import parse_qs

from pyoxigraph import QueryResultsFormat, QuerySolutions, Store

from tests.support.web_server import Asked, Log, Reply, Spoil, serve_answers

JSON_RESULTS = "application/sparql-results+json"


@contextmanager
def serve(store: Store, log: Log | None = None, spoil: Spoil = lambda reply, _asked: reply) -> Iterator[str]:
    """Serve a store, and yield the address."""

    def answer(asked: Asked) -> Reply:
        solutions = cast(QuerySolutions, store.query(query_of(asked)))
        return Reply(200, JSON_RESULTS, cast(bytes, solutions.serialize(format=QueryResultsFormat.JSON)))

    with serve_answers(answer, log, spoil) as url:
        yield f"{url}/sparql"


def query_of(asked: Asked) -> str:
    """Return the query that was posted."""
    return parse_qs(asked.body)["query"][0]
