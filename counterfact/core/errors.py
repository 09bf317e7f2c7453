"""The errors that the command line turns into exit codes, and the hint at a name that was meant."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """What a user gave cannot be used; the message says what was expected, what came and what to do."""


class Failed(Exception):
    """A job came to nothing, through no fault of its arguments; the message says what happened. Exit code 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name most like a wrong one, then all of them.

    >>> did_you_mean("rom", ["rome", "ft"]), did_you_mean("x", ["rome"])
    ("Did you mean 'rome'? Known: rome, ft", 'Known: rome')
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(names)}"
