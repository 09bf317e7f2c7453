"""Failures of the Hub, in words that contain no token and no signed address, and whether they may pass."""

from collections.abc import Iterator
from dataclasses import dataclass

_PASSING = (408, 409, 412, 429)
_LONGEST_WAIT = 300.0


@dataclass(frozen=True)
class HubFailure:
    """One failure of the Hub."""

    what: str
    advice: str
    users_fault: bool
    """Whether the user's input was wrong, rather than the Hub in trouble."""
    may_pass: bool
    wait: float | None = None
    """Seconds to wait before the next attempt, where the Hub named a time."""


def explain_failure(error: Exception, repo: str) -> HubFailure:
    """Find the answer of the Hub behind an error, and say what it means.

    Args:
        error: what `huggingface_hub` raised; the answer may be behind it, as its cause.
        repo: the repository, for the message.
    """
    for found in _chain(error):
        if _is_connection(found):
            advice = "check the network and HF_ENDPOINT; what arrived is kept, so run the same command again"
            return HubFailure(f"the connection to the Hub broke ({type(found).__name__})", advice, False, True)
        response = getattr(found, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return _of_status(status, repo, _asked_wait(getattr(response, "headers", {})))
    kind = type(list(_chain(error))[-1]).__name__
    advice = "the answer was not what huggingface_hub expects; check HF_ENDPOINT and the version of huggingface_hub"
    return HubFailure(f"the upload to {repo} came to nothing ({kind})", advice, users_fault=False, may_pass=False)


def _of_status(status: int, repo: str, wait: float | None) -> HubFailure:
    name = f"the Hub answered {status}"
    again = "what arrived is kept; run the same command again later"
    if status == 401:
        return HubFailure(f"{name}: it does not know this token", "run `hf auth login`, or set HF_TOKEN", True, False)
    if status == 403:
        advice = f"use one with write access to {repo.partition('/')[0]}, or another repository"
        return HubFailure(f"{name}: this token may not write to {repo}", advice, True, False)
    if status == 404:
        return HubFailure(f"{name}: there is no {repo}, or this token may not see it", "check its name", True, False)
    if status in (409, 412):
        return HubFailure(f"{name}: someone else changed {repo} meanwhile", again, False, True, wait)
    if status == 429:
        return HubFailure(f"{name}: too many requests", again, False, True, wait)
    if status >= 500 or status in _PASSING:
        return HubFailure(f"{name}: a fault of the server", again, False, True, wait)
    return HubFailure(f"{name}, which it should not", "check its name and the version of huggingface_hub", False, False)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_connection(error: BaseException) -> bool:
    # By name: `huggingface_hub` has changed its HTTP library from one release to the next, but not these words.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(kinds & {"TransportError", "ConnectionError"})


def _asked_wait(headers: object) -> float | None:
    text = headers.get("retry-after") if hasattr(headers, "get") else None
    return min(float(text), _LONGEST_WAIT) if isinstance(text, str) and text.isdigit() else None
