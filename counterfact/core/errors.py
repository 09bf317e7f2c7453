"""The one error that the command line turns into exit code 2."""


class BadInput(ValueError):
    """What a user gave cannot be used; the message says what was expected, what came and what to do."""


class Failed(Exception):
    """A job came to nothing, through no fault of its arguments; the message says what happened. Exit code 1."""
