"""One exchange with a server over HTTP in plain values, and what a response means by its status alone.

The rules are those of WikiData's query service and of MediaWiki's API: 429 and `Retry-After` say when to come back, a
403 is final until a person has acted, and a query that took too long is to be asked in smaller parts.
https://www.mediawiki.org/wiki/Wikidata_Query_Service/User_Manual, https://www.mediawiki.org/wiki/API:Etiquette
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from .sparql import SourceError, TooMuch

NO_ANSWER = 0
"""The status of a response that did not come in time."""
_TOO_MUCH = {NO_ANSWER, 413, 414, 504}
_PASSING = {408, 425, 500, 502, 503}
_TIMED_OUT = re.compile(r"TimeoutException|query timeout|timed out|timeout exceeded", re.IGNORECASE)
_BANNED = re.compile(r"banned until\s+([^<\n.,]+)|\bbanned\b", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_SECONDS_AFTER_429 = 60.0


class Question(NamedTuple):
    """What is asked of a server."""

    endpoint: str
    text: str = ""
    """A SPARQL query, or the parameters of an API; empty for a plain page."""
    divisible: bool = False
    """Whether the asker can ask for less at a time."""
    optional: bool = False
    """Whether there may be nothing at the address."""


class Response(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    @property
    def kind(self) -> str:
        """The Content-Type."""
        return self.headers.get("content-type", "")

    @property
    def said(self) -> str:
        """The beginning of the body, as a person reads it."""
        return " ".join(_TAG.sub(" ", self.body[:4000].decode(errors="replace")).split())[:300]


class Missing(SourceError):
    """There is nothing at this address."""


class Again(Exception):
    """The question may be asked again, later; the message says what came.

    Args:
        what: what came.
        wait: seconds the server wants to be left alone; None where it named none.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Refused(SourceError):
    """The server wants no more of these questions until a person has acted; the message says what to do."""


def check_status(endpoint: str, response: Response, now: float) -> None:
    """Pass a response that holds what was asked for, by its status and kind.

    Args:
        endpoint: who answered, for messages.
        response: what came.
        now: seconds since 1970, to which a `Retry-After` with a date is compared.

    Raises:
        Again: it may come right later.
        TooMuch: less should be asked at a time.
        Refused: the server refuses whoever asks.
        Missing: there is nothing at the address.
        SourceError: the server refuses the question.
    """
    status, page = response.status, "html" in response.kind
    if status == 200 and not page:
        return
    if banned := _BANNED.search(response.said):
        until = f" until {banned[1].strip()}" if banned[1] else ""
        raise Refused(
            f"{endpoint}: this address is banned{until}; the server said ({status}): {response.said!r}. Ask nothing "
            "more before then: the cache keeps what has come, and the same command goes on from there"
        )
    if status in (401, 403):
        raise Refused(
            f"{endpoint}: refused ({status}): {response.said!r}. Wikimedia refuses callers whose User-Agent does not "
            "name a working contact: check --contact, and read "
            "https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy; it is not asked again until you run this"
        )
    wait = retry_after(response.headers, now)
    if status == 429:
        raise Again(f"too many requests (429): {response.said!r}", _SECONDS_AFTER_429 if wait is None else wait)
    if status in _TOO_MUCH or (status >= 500 and _TIMED_OUT.search(response.body.decode(errors="replace"))):
        raise TooMuch(f"{endpoint}: no whole answer in the time it had ({status or 'none came'}): {response.said!r}")
    if status in _PASSING or status == 200:
        raise Again(f"a failure ({status}): {response.said!r}", wait)
    if status in (404, 410):
        raise Missing(f"{endpoint}: there is nothing at this address ({status}): {response.said!r}")
    raise SourceError(f"{endpoint}: the server refused the question ({status}): {response.said!r}")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that a response names, as a number or as a date; None where it names none.

    >>> retry_after({"retry-after": "7"}, 0.0)
    7.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 20.0)
    40.0
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def send_query(question: Question, agent: str, timeout: int) -> Response:
    """POST a SPARQL query, through SPARQLWrapper.

    Raises:
        Again: no whole answer came.
    """
    from http.client import HTTPException  # noqa: PLC0415
    from urllib.error import HTTPError, URLError  # noqa: PLC0415

    from SPARQLWrapper import JSON, POST, SPARQLWrapper  # noqa: PLC0415
    from SPARQLWrapper.SPARQLExceptions import SPARQLWrapperException  # noqa: PLC0415

    wrapper = SPARQLWrapper(question.endpoint, agent=agent)
    wrapper.setQuery(question.text)
    wrapper.setMethod(POST)
    wrapper.setReturnFormat(JSON)
    wrapper.setOnlyConneg(True)
    wrapper.setTimeout(timeout)
    try:
        answer = wrapper.query().response
        return Response(answer.status, _lower(answer.headers), answer.read())
    except SPARQLWrapperException as error:
        # It stands for an HTTPError, whose headers it drops; the body is in its message.
        cause = error.__context__
        status, headers = (cause.code, _lower(cause.headers)) if isinstance(cause, HTTPError) else (500, {})
        return Response(status, headers, str(error).encode())
    except HTTPError as error:
        return Response(error.code, _lower(error.headers), error.read())
    except (HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return Response(NO_ANSWER, {}, b"")
        raise Again(_name(error)) from error


def send_form(question: Question, agent: str, timeout: int) -> Response:
    """POST parameters to an API; a question without any GETs a page.

    Raises:
        Again: no whole answer came.
    """
    import requests  # noqa: PLC0415

    headers = {"User-Agent": agent, "Accept-Encoding": "gzip"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        if question.text:
            answer = requests.post(question.endpoint, data=question.text, headers=headers | form, timeout=timeout)
        else:
            answer = requests.get(question.endpoint, headers=headers, timeout=timeout)
    except requests.exceptions.ReadTimeout:
        return Response(NO_ANSWER, {}, b"")
    except requests.exceptions.RequestException as error:
        raise Again(_name(error)) from error
    return Response(answer.status_code, _lower(answer.headers), answer.content)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _name(error: Exception) -> str:
    return f"no whole answer came ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
