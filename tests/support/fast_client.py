"""A client for tests, for which time passes faster, so that real waits are kept and cost little."""

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from counterfact.builders.sources.cache import ResponseCache
from counterfact.builders.sources.client import Client, Clock, RetryPolicy, user_agent

CONTACT = "tests@example.invalid"
SPEED = 1000.0


START = float(os.environ.setdefault("FAST_CLOCK_START", str(time.time())))
"""The same for all processes that a test starts, so that their clocks agree."""


class FastClock(Clock):
    """A clock on which a real millisecond is a second."""

    def __init__(self, speed: float = SPEED) -> None:
        self.speed = speed
        self._start = START

    def now(self) -> float:
        return self._start + (time.time() - self._start) * self.speed

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


FAST = RetryPolicy(clock=FastClock())


def fast_client(cache: Path, policy: RetryPolicy = FAST, *, offline: bool = False) -> Client:
    """Open a cache and a client with it."""
    agent = None if offline else user_agent(CONTACT)
    return Client(ResponseCache(cache, read_only=offline), agent, policy)


def impatient(timeout: int = 2, tries: int = 2) -> RetryPolicy:
    """A retry policy that gives up soon."""
    return replace(FAST, timeout=timeout, tries=tries)


def stored_by_endpoint(cache: ResponseCache) -> Counter[str]:
    """Count the responses in the file of a cache, by the address that gave them."""
    with closing(sqlite3.connect(cache.path)) as database:
        return Counter(endpoint for (endpoint,) in database.execute("SELECT endpoint FROM responses"))
