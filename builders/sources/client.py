"""Asks servers politely and remembers what they said: one question at a time, patient when told to wait.

A question is looked for in the cache first. One that is not there is sent, and sent again after a failure that may
pass: not before the time the server named, and with pauses that double, with jitter, up to a budget. Only a response
that decides something is stored: the answer, or that the question was too much. Processes that share a cache take turns
at a server, so that it is asked one question at a time by all of them together.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from threading import Lock
from typing import Any, NoReturn, TypeVar

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json

from .cache import ResponseCache, Stored, moment, response_key
from .http import Again, Missing, Question, Response, check_status, retry_after
from .server_lock import Turn, Turns
from .sparql import SourceError, TooMuch

T = TypeVar("T")
Send = Callable[[Question, str, int], Response]
"""Sends a question, for an agent, and waits so many seconds for the response."""
Read = Callable[[Response], T]
"""Reads what was asked for, or raises `Again`, `TooMuch` or `SourceError`."""

AGENT = "counterfact-toolkit/0.1"

_LONG_WAIT = 30.0
_log = logging.getLogger(__name__)


class Clock:
    """The time that passes."""

    def now(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Manners:
    """How a server is treated; all times in seconds."""

    pause: float = 1.0
    """Between an answer and the next question."""
    first_wait: float = 5.0
    """After the first failure of a question; doubled after each further one."""
    longest_wait: float = 300.0
    """No pause is longer, but for those the server asks for."""
    budget: float = 3600.0
    """Waited for one question in all, before it is given up."""
    tries: int = 10
    """Times a question is sent, at most."""
    timeout: int = 70
    """Waited for an answer; WikiData's own limit for a query is 60."""
    clock: Clock = field(default_factory=Clock)


class Client:
    """Asks servers, through a cache.

    Args:
        cache: where responses are looked for and stored.
        agent: who asks, as `user_agent` makes it; None asks nobody and takes all from the cache.
        manners: how servers are treated.
    """

    def __init__(self, cache: ResponseCache, agent: str | None, manners: Manners | None = None) -> None:
        self.cache = cache
        self.sent = 0
        """Requests sent."""
        self.stored = 0
        """Responses stored."""
        self._agent = agent
        self._manners = manners or Manners()
        self._jitter = Random()
        self._used: dict[str, Stored] = {}
        self._one_at_a_time = Lock()
        self._turns = Turns(cache.path)
        self._free_at = 0.0
        self._left_alone_until = 0.0

    def ask(self, question: Question, send: Send, read: Read[T]) -> T:
        """Return what a server answers, now or at an earlier time.

        Args:
            question: what is asked.
            send: how.
            read: reads the response.

        Raises:
            TooMuch: a divisible question should be asked in smaller parts.
            Missing: there is nothing at the address.
            SourceError: there is no answer: the server refused, the budget is spent, or the cache lacks it.
        """
        with self._one_at_a_time:
            stored = self.cache.find(question.endpoint, question.text)
            if stored is not None:
                return self._read_stored(stored, read)
            if self._agent is None:
                raise SourceError(
                    f"{self.cache.path} holds no answer of {question.endpoint} to a question of this build; build with "
                    "the settings and sources it was made with, or without --replay. The question was:\n"
                    f"{question.text[:500]}"
                )
            return self._insist(question, send, read, self._agent)

    def used(self, endpoint: str) -> dict[str, Any]:
        """Say what was taken from an endpoint so far: how many responses, from when, and one hash over all of them."""
        found = [(key, stored) for key, stored in sorted(self._used.items()) if stored.endpoint == endpoint]
        times = [stored.asked_at for _, stored in found]
        return {
            "responses": len(found),
            "sha256": hash_json([[key, stored.status, stored.sha256] for key, stored in found]),
            "first": min(times, default=None),
            "last": max(times, default=None),
        }

    def oldest(self) -> str | None:
        """Return when the oldest response taken so far came."""
        return min((stored.asked_at for stored in self._used.values()), default=None)

    def used_keys(self) -> list[str]:
        """Return the keys of all responses taken so far."""
        return sorted(self._used)

    def _insist(self, question: Question, send: Send, read: Read[T], agent: str) -> T:
        manners, clock = self._manners, self._manners.clock
        waited = 0.0
        for attempt in range(manners.tries):
            try:
                with self._turns.take(question.endpoint) as turn:
                    # Another process may have asked it while this one waited for its turn.
                    stored = self.cache.find(question.endpoint, question.text)
                    if stored is not None:
                        return self._read_stored(stored, read)
                    return self._send(question, send, read, agent, turn)
            except (Again, TooMuch) as error:
                if isinstance(error, TooMuch) and question.divisible:
                    raise
                failure = error
            wait = self._wait(attempt, failure)
            if waited + wait > manners.budget or attempt + 1 == manners.tries:
                self._give_up(question, attempt + 1, wait, failure)
            if wait >= _LONG_WAIT:
                _log.warning("%s: %s; asked again in %.0f seconds", question.endpoint, failure, wait)
            clock.sleep(wait)
            waited += wait
        raise BadInput(f"expected to send a question once or more, got tries={manners.tries}")

    def _send(self, question: Question, send: Send, read: Read[T], agent: str, turn: Turn) -> T:
        manners, clock = self._manners, self._manners.clock
        wait = max(self._free_at, turn.free_at) - clock.now()
        if wait > manners.budget:
            raise SourceError(
                f"{question.endpoint}: the server asked to be left alone until {moment(turn.free_at)}; run the same "
                "command again then"
            )
        clock.sleep(max(0.0, wait))
        asked_at = clock.now()
        turn.leave_alone_until(asked_at + manners.pause)
        try:
            self.sent += 1
            response = send(question, agent, manners.timeout)
            return self._read_fresh(question, response, read, asked_at)
        finally:
            self._free_at = max(clock.now() + manners.pause, self._left_alone_until)
            turn.leave_alone_until(self._free_at)

    def _read_fresh(self, question: Question, response: Response, read: Read[T], asked_at: float) -> T:
        now = self._manners.clock.now()
        named = retry_after(response.headers, now)
        self._left_alone_until = now + (named or 0.0)
        try:
            check_status(question.endpoint, response, now)
            value = read(response)
        except Again as error:
            if error.wait is None:
                error.wait = named
            self._left_alone_until = now + (error.wait or 0.0)
            raise
        except (TooMuch, Missing) as error:
            if question.divisible if isinstance(error, TooMuch) else question.optional:
                self._keep(question, response, asked_at)
            raise
        self._keep(question, response, asked_at)
        return value

    def _read_stored(self, stored: Stored, read: Read[T]) -> T:
        self._remember(stored)
        response = Response(stored.status, {"content-type": stored.kind}, stored.body)
        try:
            check_status(stored.endpoint, response, 0.0)
            return read(response)
        except Again as error:
            raise SourceError(
                f"{self.cache.path}: a stored response cannot be read: {error}; use a new cache"
            ) from error

    def _keep(self, question: Question, response: Response, asked_at: float) -> None:
        hashed = sha256(response.body).hexdigest()
        stored = Stored(
            question.endpoint, question.text, moment(asked_at), response.status, response.kind, hashed, response.body
        )
        self.cache.store(stored)
        self.stored += 1
        self._remember(stored)

    def _remember(self, stored: Stored) -> None:
        self._used[response_key(stored.endpoint, stored.request)] = stored._replace(body=b"", request="")

    def _wait(self, attempt: int, failure: Exception) -> float:
        manners = self._manners
        pause = min(manners.longest_wait, manners.first_wait * 2.0**attempt) * self._jitter.uniform(1.0, 1.5)
        asked = failure.wait if isinstance(failure, Again) else None
        return max(pause, asked or 0.0)

    def _give_up(self, question: Question, attempts: int, wait: float, failure: Exception) -> NoReturn:
        raise SourceError(
            f"{question.endpoint}: no answer after {attempts} attempts; the last: {failure}. Nothing was taken "
            f"from it. What came before is in {self.cache.path}: run the same command again in {max(60.0, wait):.0f} "
            "seconds or later, and it goes on from there"
        ) from failure


def user_agent(contact: str | None) -> str:
    """Return the User-Agent that Wikimedia's policy asks for, `name/version (contact)`.

    Raises:
        BadInput: the contact is missing, or is neither an e-mail address nor a page.

    >>> user_agent("ada@example.org")
    'counterfact-toolkit/0.1 (ada@example.org)'
    """
    said = (contact or "").strip()
    if not said or not ("@" in said.strip("@") or "://" in said) or any(c in said for c in "()\r\n"):
        raise BadInput(
            "a live service wants to know who asks: give --contact (or set COUNTERFACT_CONTACT) with an e-mail address "
            f"or the address of a page, got {contact!r}"
        )
    return f"{AGENT} ({said})"
