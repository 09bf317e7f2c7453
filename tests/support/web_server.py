"""A server on loopback for tests that can be told to misbehave, and writes down who asked what when."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Reply(NamedTuple):
    """What the server sends."""

    status: int
    kind: str
    body: bytes
    announced: int | None = None
    """Content-Length, where it differs from the body's."""
    headers: Mapping[str, str] = {}
    silence: float = 0.0
    """Seconds before anything is sent."""


class Asked(NamedTuple):
    """What the server was sent."""

    method: str
    path: str
    agent: str
    body: str


@dataclass
class Visit:
    """One request from its beginning to its end, in seconds of `time.monotonic`."""

    asked: Asked
    began: float
    ended: float = float("inf")
    reply: Reply | None = None
    """What was sent, after any misbehaviour."""


@dataclass
class Log:
    """All requests, in the order in which they came."""

    visits: list[Visit] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def asked(self) -> list[Asked]:
        return [visit.asked for visit in self.visits]


Answer = Callable[[Asked], Reply]
Spoil = Callable[[Reply, Asked], Reply]


@contextmanager
def serve_answers(answer: Answer, log: Log | None = None, spoil: Spoil = lambda reply, _asked: reply) -> Iterator[str]:
    """Serve what a function answers, and yield the address."""
    written = log if log is not None else Log()
    lock = threading.Lock()
    open_now = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._handle("")

        def do_POST(self) -> None:
            self._handle(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _handle(self, body: str) -> None:
            nonlocal open_now
            visit = Visit(Asked(self.command, self.path, self.headers["User-Agent"], body), time.monotonic())
            with lock:
                open_now += 1
                written.most_at_once = max(written.most_at_once, open_now)
                written.visits.append(visit)
                reply = visit.reply = spoil(answer(visit.asked), visit.asked)
            time.sleep(reply.silence)
            with lock:
                # Before it is sent: a client that has it may ask again before this thread goes on.
                open_now -= 1
                visit.ended = time.monotonic()
            try:
                self._send(reply)
            except OSError:
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body) if reply.announced is None else reply.announced))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
