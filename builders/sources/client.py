"""An HTTP client with a cache: one request at a time to a server, retried as the server allows.

A request is looked for in the cache first. One that is not there is sent, and sent again after a failure that may
pass: not before the time the server named, and with pauses that double, with jitter, up to a budget. Only a response
that decides something is stored: the answer, or that the request was too large. Processes that share a cache share a
lock for every server, so that all of them together send it one request at a time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, NamedTuple, NoReturn, TypeVar

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json

from .cache import ResponseCache, StoredResponse, moment, response_key
from .http import NotFound, Response, ServerRequest, TransientError, check_status, retry_after
from .server_lock import ServerLock, server_lock
from .sparql import QueryTooLarge, SourceError

T = TypeVar("T")
Send = Callable[[ServerRequest, str, int], Response]
"""Function that sends a request with a User-Agent, and waits so many seconds for the response."""
Read = Callable[[Response], T]
"""Function that reads a response, or raises `TransientError`, `QueryTooLarge` or `SourceError`."""

AGENT = "counterfact-toolkit/0.1"

_LONG_WAIT = 30.0
_log = logging.getLogger(__name__)


class Clock:
    """The system's clock."""

    def now(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        time.sleep(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to try; all times in seconds."""

    pause: float = 1.0
    """Pause between a response and the next request."""
    first_wait: float = 5.0
    """Wait after the first failure of a request; doubled after each further one."""
    longest_wait: float = 300.0
    """Longest wait, except where the server asks for a longer one."""
    budget: float = 3600.0
    """Time spent waiting for one request in all, before it is given up."""
    tries: int = 10
    """Times a request is sent, at most."""
    timeout: int = 70
    """Time allowed for a response; WikiData's own limit for a query is 60."""
    clock: Clock = field(default_factory=Clock)


class ResponseCounts(NamedTuple):
    """Where the responses that a client gave came from."""

    new: int
    """Responses that servers sent now."""
    cached: int
    """Responses that were in the cache already."""
    requests: int
    """Requests sent, failures included."""
    oldest: str | None
    """Time of the oldest response, in ISO 8601, UTC."""
    cache: Path


class Client:
    """A client of any number of servers, with one cache.

    Args:
        cache: where responses are looked for and stored.
        agent: the User-Agent, as `user_agent` makes it; None sends nothing and takes all from the cache.
        policy: when to try again.
    """

    def __init__(self, cache: ResponseCache, agent: str | None, policy: RetryPolicy | None = None) -> None:
        self.cache = cache
        self.sent = 0
        """Requests sent."""
        self._stored = 0
        self._agent = agent
        self._policy = policy or RetryPolicy()
        self._jitter = Random()
        self._used: dict[str, StoredResponse] = {}
        self._one_at_a_time = Lock()

    def fetch(self, request: ServerRequest, send: Send, read: Read[T]) -> T:
        """Return what a server answers, now or at an earlier time.

        Args:
            request: the request.
            send: sends the request.
            read: reads the response.

        Raises:
            QueryTooLarge: a divisible request should be made in smaller parts.
            NotFound: there is nothing at the address.
            SourceError: there is no answer: the server refused, the budget is spent, or the cache lacks it.
        """
        with self._one_at_a_time:
            stored = self.cache.find(request.endpoint, request.body)
            if stored is not None:
                return self._read_stored(stored, read)
            if self._agent is None:
                raise SourceError(
                    f"{self.cache.path} holds no answer of {request.endpoint} to a request of this build; build with "
                    "the settings and sources it was made with, or without --replay. The request was:\n"
                    f"{request.body[:500]}"
                )
            return self._fetch_with_retries(request, send, read, self._agent)

    def used(self, endpoint: str) -> dict[str, Any]:
        """Return how many responses were taken from an endpoint so far, from when, and one hash over all of them."""
        found = [(key, stored) for key, stored in sorted(self._used.items()) if stored.endpoint == endpoint]
        times = [stored.sent_at for _, stored in found]
        return {
            "responses": len(found),
            "sha256": hash_json([[key, stored.status, stored.sha256] for key, stored in found]),
            "first": min(times, default=None),
            "last": max(times, default=None),
        }

    def counts(self) -> ResponseCounts:
        """Return how many responses are new, and how old the others are."""
        oldest = min((stored.sent_at for stored in self._used.values()), default=None)
        return ResponseCounts(self._stored, len(self._used) - self._stored, self.sent, oldest, self.cache.path)

    def pack(self, target: Path) -> int:
        """Copy the responses taken so far into a cache of its own, and return how many they are."""
        self.cache.pack(target, self._used)
        return len(self._used)

    def _fetch_with_retries(self, request: ServerRequest, send: Send, read: Read[T], agent: str) -> T:
        policy = self._policy
        waited = 0.0
        for attempt in range(policy.tries):
            try:
                with server_lock(self.cache.path, request.endpoint) as lock:
                    # Another process may have sent it while this one waited for the lock.
                    stored = self.cache.find(request.endpoint, request.body)
                    if stored is not None:
                        return self._read_stored(stored, read)
                    return self._send(request, send, read, agent, lock)
            except (TransientError, QueryTooLarge) as error:
                if isinstance(error, QueryTooLarge) and request.divisible:
                    raise
                failure = error
            most = failure.most if isinstance(failure, TransientError) else None
            if most is not None and attempt + 1 >= most and not self._stored:
                raise SourceError(f"{request.endpoint}: nothing of use answers there: {failure}") from failure
            wait = self._wait(attempt, failure)
            if waited + wait > policy.budget or attempt + 1 == policy.tries:
                self._give_up(request, attempt + 1, wait, failure)
            if wait >= _LONG_WAIT:
                _log.warning("%s: %s; next attempt in %.0f seconds", request.endpoint, failure, wait)
            policy.clock.sleep(wait)
            waited += wait
        raise BadInput(f"expected to send a request once or more, got tries={policy.tries}")

    def _send(self, request: ServerRequest, send: Send, read: Read[T], agent: str, lock: ServerLock) -> T:
        policy, clock = self._policy, self._policy.clock
        wait = lock.free_at - clock.now()
        if wait > policy.budget:
            raise SourceError(
                f"{request.endpoint}: the server asked to be left alone until {moment(lock.free_at)}; run the same "
                "command again then"
            )
        clock.sleep(max(0.0, wait))
        sent_at = clock.now()
        lock.postpone(sent_at + policy.pause)
        self.sent += 1
        try:
            response = send(request, agent, policy.timeout)
        finally:
            lock.postpone(clock.now() + policy.pause)
        return self._read_fresh(request, response, read, sent_at, lock)

    def _read_fresh(
        self, request: ServerRequest, response: Response, read: Read[T], sent_at: float, lock: ServerLock
    ) -> T:
        now = self._policy.clock.now()
        named = retry_after(response.headers, now)
        lock.postpone(now + (named or 0.0))
        try:
            check_status(request.endpoint, response, now)
            value = read(response)
        except TransientError as error:
            if error.wait is None:
                error.wait = named
            lock.postpone(now + (error.wait or 0.0))
            raise
        except (QueryTooLarge, NotFound) as error:
            if request.divisible if isinstance(error, QueryTooLarge) else request.optional:
                self._store(request, response, sent_at)
            raise
        self._store(request, response, sent_at)
        return value

    def _read_stored(self, stored: StoredResponse, read: Read[T]) -> T:
        self._remember(stored)
        response = Response(stored.status, {"content-type": stored.content_type}, stored.body)
        try:
            check_status(stored.endpoint, response, 0.0)
            return read(response)
        except TransientError as error:
            raise SourceError(
                f"{self.cache.path}: a stored response cannot be read: {error}; use a new cache"
            ) from error

    def _store(self, request: ServerRequest, response: Response, sent_at: float) -> None:
        hashed = sha256(response.body).hexdigest()
        stored = StoredResponse(
            request.endpoint,
            request.body,
            moment(sent_at),
            response.status,
            response.content_type,
            hashed,
            response.body,
        )
        self.cache.store(stored)
        self._stored += 1
        self._remember(stored)

    def _remember(self, stored: StoredResponse) -> None:
        self._used[response_key(stored.endpoint, stored.request)] = stored._replace(body=b"", request="")

    def _wait(self, attempt: int, failure: Exception) -> float:
        policy = self._policy
        pause = min(policy.longest_wait, policy.first_wait * 2.0**attempt) * self._jitter.uniform(1.0, 1.5)
        named = failure.wait if isinstance(failure, TransientError) else None
        return max(pause, named or 0.0)

    def _give_up(self, request: ServerRequest, attempts: int, wait: float, failure: Exception) -> NoReturn:
        raise SourceError(
            f"{request.endpoint}: no answer after {attempts} attempts; the last: {failure}. Nothing was taken "
            f"from it. What came before is in {self.cache.path}: run the same command again in {max(60.0, wait):.0f} "
            "seconds or later, and it continues from there"
        ) from failure


def user_agent(contact: str | None) -> str:
    """Return the User-Agent that Wikimedia's policy requires, `name/version (contact)`.

    Raises:
        BadInput: the contact is missing, or is neither an e-mail address nor a page.

    >>> user_agent("ada@example.org")
    'counterfact-toolkit/0.1 (ada@example.org)'
    """
    said = (contact or "").strip()
    if not said or not ("@" in said.strip("@") or "://" in said) or any(c in said for c in "()\r\n"):
        raise BadInput(
            "live services require a contact: give --contact (or set COUNTERFACT_CONTACT) with an e-mail address "
            f"or the address of a page, got {contact!r}"
        )
    return f"{AGENT} ({said})"
