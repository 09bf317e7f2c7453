"""A SPARQL endpoint on loopback for tests, backed by pyoxigraph, that can be told to misbehave."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, cast
from urllib.parse import parse_qs

from pyoxigraph import QueryResultsFormat, QuerySolutions, Store


class Reply(NamedTuple):
    """What the server sends."""

    status: int
    kind: str
    body: bytes
    announced: int | None = None
    """Content-Length, where it differs from the body's."""


class Asked(NamedTuple):
    """What the server was sent."""

    method: str
    agent: str
    query: str


Spoil = Callable[[Reply], Reply]


@contextmanager
def serve(store: Store, log: list[Asked], spoil: Spoil = lambda reply: reply) -> Iterator[str]:
    """Serve a store, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            log.append(Asked("POST", self.headers["User-Agent"], form["query"][0]))
            solutions = cast(QuerySolutions, store.query(form["query"][0]))
            body = cast(bytes, solutions.serialize(format=QueryResultsFormat.JSON))
            reply = spoil(Reply(200, "application/sparql-results+json", body))
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body) if reply.announced is None else reply.announced))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/sparql"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
