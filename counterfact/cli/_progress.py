"""What is said of work that takes long: how long it will take, and how far it is."""

import time
from collections.abc import Callable
from typing import Protocol

MEASURED = 5.0
"""Seconds of a stage after which it is said how long it will take."""
LONG = 60.0
"""Seconds that a stage must take for that to be said."""
PAUSE = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class Advance(Protocol):
    """Takes in how far a stage has come: its name, how much is done, of how much, and what else there is to tell."""

    def __call__(self, stage: str, done: int, total: int | None = None, note: str = "") -> None: ...


class Pace:
    """Turns progress into lines: once how long a stage will take, from its measured speed, and then how far it is.

    Args:
        say: prints a line.
        go_on: whether lines follow the first, for want of a bar.
        clock: gives the time in seconds.
    """

    def __init__(self, say: Callable[[str], None], *, go_on: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._go_on, self._clock = say, go_on, clock
        self._stage: str | None = None
        self._start = self._said = 0.0
        self._before, self._latest, self._estimated = 0, 0, False

    def tell(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Take in how far a stage has come, and say what is due; one that is back at less has begun again."""
        now = self._clock()
        if stage != self._stage or done < self._latest:
            self._stage, self._start, self._said, self._before, self._estimated = stage, now, now, done, False
        self._latest = done
        seconds, fresh = now - self._start, done - self._before
        if seconds < MEASURED or fresh <= 0:
            return
        left = None if total is None else (total - done) * seconds / fresh
        if not self._estimated:
            self._estimated = True
            if left is None or left > LONG:
                self._said = now
                took = "it is not known how much is" if left is None else f"about {duration(left)}"
                speed = f"by the speed of the first {duration(seconds)} ({_so_far(done, total, note)})"
                self._say(f"{stage}: {took} left, {speed}")
        elif self._go_on and now - self._said >= PAUSE:
            self._said = now
            self._say(f"{stage}: {_so_far(done, total, note)}" + ("" if left is None else f", {duration(left)} left"))


def duration(seconds: float) -> str:
    """Write a length of time for people.

    >>> [duration(seconds) for seconds in (4.4, 61, 3600)]
    ['4 s', '1 min 1 s', '1 h 0 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _so_far(done: int, total: int | None, note: str) -> str:
    return f"{done:,}" + ("" if total is None else f" of {total:,}") + (f", {note}" if note else "")
