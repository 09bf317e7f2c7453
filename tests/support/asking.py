"""A client for tests, for which time passes faster, so that real waits are kept and cost little."""

import os
import time
from dataclasses import replace
from pathlib import Path

from counterfact.builders.sources.cache import ResponseCache
from counterfact.builders.sources.client import Client, Clock, Manners, user_agent

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


FAST = Manners(clock=FastClock())


def client(cache: Path, manners: Manners = FAST, *, offline: bool = False) -> Client:
    """Open a cache and a client with it."""
    agent = None if offline else user_agent(CONTACT)
    return Client(ResponseCache(cache, read_only=offline), agent, manners)


def impatient(timeout: int = 2, tries: int = 2) -> Manners:
    """Manners that give up soon."""
    return replace(FAST, timeout=timeout, tries=tries)
