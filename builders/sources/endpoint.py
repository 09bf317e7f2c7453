"""A SPARQL 1.1 endpoint as a source of facts: WikiData's own service, QLever's, or one that a user hosts."""

from dataclasses import dataclass
from typing import Any

from .client import Client
from .http import Question, Response, send_query
from .sparql import Answer, read_answer

ENDPOINTS = {
    "wdqs": "https://query.wikidata.org/sparql",
    "qlever": "https://qlever.dev/api/wikidata",
}
"""Public endpoints by their short names."""


@dataclass(frozen=True)
class EndpointSource:
    """Facts from an endpoint over HTTP."""

    url: str
    client: Client

    def select(self, query: str, *, divisible: bool = False) -> Answer:
        """Answer a SELECT query, from the cache where it was asked before.

        Raises:
            TooMuch: a divisible query takes the server longer than it allows itself.
            SourceError: the server cannot be reached, refuses, or answers with something else than results.
        """

        def read(response: Response) -> Answer:
            return read_answer(response.body, self.url)

        return self.client.ask(Question(self.url, query, divisible), send_query, read)

    def identity(self) -> dict[str, Any]:
        """The address, and what was taken from it."""
        return {"kind": "endpoint", "url": self.url, **self.client.used(self.url)}
