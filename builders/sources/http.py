"""HTTP requests and responses as plain values, and what a response means by its status.

The rules are those of WikiData's query service and of MediaWiki's API: 429 and `Retry-After` say when to come back, a
403 is final until a person has acted, and a query that took too long should be sent in smaller parts.
https://www.mediawiki.org/wiki/Wikidata_Query_Service/User_Manual, https://www.mediawiki.org/wiki/API:Etiquette
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from socket import gaierror
from typing import Any, NamedTuple
from urllib.error import HTTPError

from .sparql import QueryTooLarge, SourceError

NO_ANSWER = 0
"""Status of a response that did not come in time."""
_TOO_MUCH = {NO_ANSWER, 413, 414, 504}
_PASSING = {408, 425, 500, 502, 503}
_TIMED_OUT = re.compile(r"TimeoutException|query timeout|timed out|timeout exceeded", re.IGNORECASE)
_BANNED = re.compile(r"banned until\s+([^<\n.,]+)|\bbanned\b", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_SECONDS_AFTER_429 = 60.0


class ServerRequest(NamedTuple):
    """A request to a server."""

    endpoint: str
    body: str = ""
    """A SPARQL query, or the parameters of an API; empty for a plain page."""
    divisible: bool = False
    """Whether the caller can send smaller requests instead."""
    optional: bool = False
    """Whether there may be nothing at the address."""


class Response(NamedTuple):
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    """Headers by their names in lower case."""
    body: bytes

    @property
    def content_type(self) -> str:
        """Content-Type, empty where none was sent."""
        return self.headers.get("content-type", "")

    @property
    def said(self) -> str:
        """Beginning of the body, without markup."""
        return " ".join(_TAG.sub(" ", self.body[:4000].decode(errors="replace")).split())[:300]


class NotFound(SourceError):
    """An address at which there is nothing."""


class TransientError(Exception):
    """A failure that may pass, so that the request may be sent again later; the message says what came.

    Args:
        what: what came.
        wait: seconds the server wants to be left alone; None where it named none.
        most: how often it may come while nothing else has come from servers yet; None: as often as the policy allows.
    """

    def __init__(self, what: str, wait: float | None = None, *, most: int | None = None) -> None:
        super().__init__(what)
        self.wait = wait
        self.most = most


class Refused(SourceError):
    """Refusal of a server to answer until a person has acted; the message says what to do."""


def check_status(endpoint: str, response: Response, now: float) -> None:
    """Accept a response that contains what was requested, by its status and content type.

    Args:
        endpoint: who answered, for messages.
        response: what came.
        now: seconds since 1970, to which a `Retry-After` with a date is compared.

    Raises:
        TransientError: it may come right later.
        QueryTooLarge: smaller requests should be sent.
        Refused: the server refuses this client.
        NotFound: there is nothing at the address.
        SourceError: the server refuses this request.
    """
    status, page = response.status, "html" in response.content_type
    if status == 200 and not page:
        return
    if banned := _BANNED.search(response.said):
        until = f" until {banned[1].strip()}" if banned[1] else ""
        raise Refused(
            f"{endpoint}: this address is banned{until}; the server said ({status}): {response.said!r}. Send nothing "
            "more before then: the cache keeps what has come, and the same command continues from there"
        )
    if status in (401, 403):
        raise Refused(
            f"{endpoint}: refused ({status}): {response.said!r}. Wikimedia refuses callers whose User-Agent does not "
            "name a working contact: check --contact, and read "
            "https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy; nothing more is sent until you run this"
        )
    wait = retry_after(response.headers, now)
    if status == 429:
        raise TransientError(
            f"too many requests (429): {response.said!r}", _SECONDS_AFTER_429 if wait is None else wait
        )
    if status in _TOO_MUCH or (status >= 500 and _TIMED_OUT.search(response.body.decode(errors="replace"))):
        raise QueryTooLarge(
            f"{endpoint}: no whole answer in the time it had ({status or 'none came'}): {response.said!r}"
        )
    if status == 200:
        raise TransientError(
            f"a web page in place of data: {response.said!r}; look whether the address is right", most=3
        )
    if status in _PASSING:
        raise TransientError(f"a failure ({status}): {response.said!r}", wait)
    if status in (404, 410):
        raise NotFound(f"{endpoint}: there is nothing at this address ({status}): {response.said!r}")
    raise SourceError(f"{endpoint}: the server refused the request ({status}): {response.said!r}")


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


def receive(send: Callable[[], Any]) -> Response:
    """Return what a server sends back, whatever its status; a server that takes too long gives `NO_ANSWER`.

    Args:
        send: sends the request, and returns a response of `urllib`.

    Raises:
        TransientError: no complete response came.
    """
    try:
        try:
            reply = send()
        except HTTPError as error:
            reply = error  # a response like any other
        headers, body = lower_names(reply.headers), reply.read()
    except (HTTPException, OSError) as error:
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            return Response(NO_ANSWER, {}, b"")
        raise incomplete(error) from error
    return unpacked(Response(reply.status, headers, body))


def unpacked(response: Response) -> Response:
    """Return a response with its body as it was before it was compressed for the way.

    Raises:
        TransientError: half of the body is missing.
    """
    if response.headers.get("content-encoding") != "gzip":
        return response
    try:
        return response._replace(body=gzip.decompress(response.body))
    except (OSError, EOFError, zlib.error) as error:
        raise incomplete(error) from error


def incomplete(error: Exception) -> TransientError:
    """Return the failure that a response did not come, or not as a whole; there may be nobody to send one."""
    said = " ".join(str(error).split())[:200]
    absent = any(isinstance(cause, gaierror | ConnectionRefusedError) for cause in _causes(error))
    return TransientError(f"no complete response came ({type(error).__name__}: {said})", most=1 if absent else None)


def _causes(error: object) -> Iterator[BaseException]:
    """Yield an error and what it came of, which libraries keep in several places."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def post_form(request: ServerRequest, agent: str, timeout: int) -> Response:
    """POST parameters to an API; a request without any GETs a page.

    Raises:
        TransientError: no complete response came.
    """
    import requests  # noqa: PLC0415
    from urllib3.exceptions import HTTPError as ReadFailed  # noqa: PLC0415
    from urllib3.exceptions import ReadTimeoutError  # noqa: PLC0415

    headers = {"User-Agent": agent, "Accept-Encoding": "gzip"}
    form = {"Content-Type": "application/x-www-form-urlencoded"} if request.body else {}
    method, body = ("POST", request.body.encode()) if request.body else ("GET", None)
    try:
        with requests.request(
            method, request.endpoint, data=body, headers=headers | form, timeout=timeout, stream=True
        ) as reply:
            # Unpacked by us: `requests` takes half of a compressed body for the whole.
            content = reply.raw.read(decode_content=False)
    except (requests.exceptions.ReadTimeout, ReadTimeoutError):
        return Response(NO_ANSWER, {}, b"")
    except (requests.exceptions.RequestException, ReadFailed) as error:
        raise incomplete(error) from error
    return unpacked(Response(reply.status_code, lower_names(reply.headers), content))


def lower_names(headers: Any) -> dict[str, str]:
    """Return headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}
