"""A SPARQL 1.1 endpoint as a source of facts: WikiData's own service, QLever's, or one that a user hosts."""

from dataclasses import dataclass
from typing import Any

from .client import Client
from .http import Response, ServerRequest, lower_names, receive
from .sparql import QueryResult, read_results

ENDPOINTS = {
    "wdqs": "https://query.wikidata.org/sparql",
    "qlever": "https://qlever.dev/api/wikidata",
}
"""Public endpoints by their short names."""


@dataclass(frozen=True)
class EndpointSource:
    """A SPARQL endpoint over HTTP."""

    url: str
    client: Client

    def select(self, query: str, *, divisible: bool = False) -> QueryResult:
        """Answer a SELECT query, from the cache if it was sent before.

        Raises:
            QueryTooLarge: a divisible query takes the server longer than it allows itself.
            SourceError: the server cannot be reached, refuses, or answers with something else than results.
        """

        def read(response: Response) -> QueryResult:
            return read_results(response.body, self.url)

        return self.client.fetch(ServerRequest(self.url, query, divisible), send_query, read)

    def identity(self) -> dict[str, Any]:
        """Return the address, and what was taken from it."""
        return {"kind": "endpoint", "url": self.url, **self.client.used(self.url)}


def send_query(request: ServerRequest, agent: str, timeout: int) -> Response:
    """POST a SPARQL query with SPARQLWrapper, and request JSON.

    Raises:
        TransientError: no complete response came.
    """
    from SPARQLWrapper import JSON, POST, SPARQLWrapper  # noqa: PLC0415
    from SPARQLWrapper.SPARQLExceptions import SPARQLWrapperException  # noqa: PLC0415

    wrapper = SPARQLWrapper(request.endpoint, returnFormat=JSON, agent=agent)
    wrapper.setQuery(request.body)
    wrapper.setMethod(POST)
    wrapper.setOnlyConneg(True)
    wrapper.setTimeout(timeout)
    try:
        return receive(lambda: wrapper.query().response)
    except SPARQLWrapperException as error:
        # It replaces an HTTPError, whose body it has read into its message.
        failure: Any = error.__context__
        return Response(failure.code, lower_names(failure.headers), str(error).encode())
