"""Every failure a live service is known for, one at a time: waited out, halved, or explained and left alone."""

import gzip
import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from counterfact.builders.sources.client import Client, user_agent
from counterfact.builders.sources.http import (
    NotFound,
    Refused,
    Response,
    ServerRequest,
    check_status,
    post_form,
    retry_after,
)
from counterfact.builders.sources.sparql import QueryTooLarge, SourceError
from counterfact.core.errors import BadInput
from tests.support.fast_client import FAST, SPEED, fast_client, impatient, stored_by_endpoint
from tests.support.web_server import Asked, Log, Reply, serve_answers

GOOD = Reply(200, "application/json", b'{"good": true}')
MAXLAG = json.dumps({"error": {"code": "maxlag", "info": "Waiting for a server: 6 seconds lagged."}}).encode()


def read(response: Response) -> dict[str, bool]:
    from counterfact.builders.sources.wikipedia import read_api

    return read_api(response, "the server")


def html(status: int, text: str) -> Reply:
    return Reply(status, "text/html", f"<html><h1>{text}</h1></html>".encode())


class Bad:
    """Answers badly a number of times, then well."""

    def __init__(self, *bad: Reply | Callable[[], Reply]) -> None:
        self.left = list(bad)

    def __call__(self, asked: Asked) -> Reply:
        if not self.left:
            return GOOD
        reply = self.left.pop(0)
        return reply if isinstance(reply, Reply) else reply()


PASSING: dict[str, tuple[Reply | Callable[[], Reply], float]] = {
    "429 with seconds": (Reply(429, "text/plain", b"slow", headers={"Retry-After": "40"}), 40),
    "429 with a date": (
        lambda: Reply(
            429, "text/plain", b"slow", headers={"Retry-After": formatdate(FAST.clock.now() + 60, usegmt=True)}
        ),
        55,
    ),
    "429 without a time": (Reply(429, "text/plain", b"slow"), 60),
    "429 with nonsense": (Reply(429, "text/plain", b"slow", headers={"Retry-After": "soon"}), 60),
    "503 with seconds": (Reply(503, "text/plain", b"down", headers={"Retry-After": "30"}), 30),
    "500": (Reply(500, "text/plain", b"out of memory"), 5),
    "502": (html(502, "Bad gateway"), 5),
    "503": (html(503, "Service unavailable"), 5),
    "504": (html(504, "Gateway timeout"), 5),
    "a page in place of data": (html(200, "We are back soon"), 5),
    "cut off on the way": (GOOD._replace(body=GOOD.body[:-4], announced=len(GOOD.body)), 5),
    "truncated": (GOOD._replace(body=GOOD.body[:-4]), 5),
    "nothing": (GOOD._replace(body=b""), 5),
    "maxlag": (Reply(200, "application/json", MAXLAG, headers={"Retry-After": "7"}), 7),
}


@pytest.mark.parametrize(("bad", "wait"), PASSING.values(), ids=PASSING.keys())
def test_what_may_pass_is_waited_out(bad: Reply | Callable[[], Reply], wait: float, tmp_path: Path) -> None:
    log = Log()
    with serve_answers(Bad(bad, bad), log) as url:
        client = fast_client(tmp_path / "a.sqlite")
        assert client.fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}
        assert client.fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}
    assert len(log.visits) == client.sent == 3
    for before, after in zip(log.visits, log.visits[1:], strict=False):
        assert after.began - before.ended >= wait / SPEED
    assert log.most_at_once == 1


def test_waits_double_and_the_budget_ends_them(tmp_path: Path) -> None:
    log = Log()
    with (
        serve_answers(lambda _: html(502, "Bad gateway"), log) as url,
        pytest.raises(SourceError, match=r"no answer after 5 attempts.*502.*run the same command again"),
    ):
        policy = replace(FAST, first_wait=10, budget=260)
        fast_client(tmp_path / "a.sqlite", policy).fetch(ServerRequest(url, "a=1"), post_form, read)
    waits = [after.began - before.ended for before, after in zip(log.visits, log.visits[1:], strict=False)]
    assert all(wait >= 10 * 2**n / SPEED for n, wait in enumerate(waits))


def test_a_wait_beyond_the_budget_is_not_begun(tmp_path: Path) -> None:
    log = Log()
    with (
        serve_answers(lambda _: Reply(429, "text/plain", b"", headers={"Retry-After": "86400"}), log) as url,
        pytest.raises(SourceError, match="in 86400 seconds"),
    ):
        fast_client(tmp_path / "a.sqlite").fetch(ServerRequest(url, "a=1"), post_form, read)
    assert len(log.visits) == 1


def test_what_a_server_asked_for_holds_for_the_next_process_too(tmp_path: Path) -> None:
    log = Log()
    slow = [Reply(429, "text/plain", b"", headers={"Retry-After": "86400"})]
    with serve_answers(Bad(*slow), log) as url:
        with pytest.raises(SourceError, match="in 86400 seconds"):
            fast_client(tmp_path / "a.sqlite").fetch(ServerRequest(url, "a=1"), post_form, read)
        for text in ("a=1", "a=2"):
            with pytest.raises(SourceError, match="left alone until 20"):
                fast_client(tmp_path / "a.sqlite").fetch(ServerRequest(url, text), post_form, read)
        assert len(log.visits) == 1
        assert fast_client(tmp_path / "b.sqlite").fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}


POLICY = "Please set a user-agent and respect our robot policy"
BAN = "You have been banned until 2026-12-01T00:00:00Z, please respect throttling"
FINAL: dict[str, tuple[Reply, type[Exception], str]] = {
    "the policy page": (html(403, POLICY), Refused, "--contact"),
    "a ban": (html(403, BAN), Refused, "banned until 2026-12-01"),
    "a ban as a good page": (html(200, BAN), Refused, "banned until 2026-12-01"),
    "a ban with 429": (html(429, BAN), Refused, "banned until 2026-12-01"),
    "401": (html(401, "Who are you?"), Refused, "401"),
    "400": (Reply(400, "text/plain", b"parse error"), SourceError, "refused the request"),
    "404": (html(404, "Not found"), NotFound, "nothing at this address"),
    "an error": (Reply(200, "application/json", b'{"error": {"code": "badvalue"}}'), SourceError, "badvalue"),
}


@pytest.mark.parametrize(("bad", "kind", "said"), FINAL.values(), ids=FINAL.keys())
def test_what_will_not_pass_is_explained_and_not_asked_again(
    bad: Reply, kind: type[Exception], said: str, tmp_path: Path
) -> None:
    log = Log()
    with serve_answers(lambda _: bad, log) as url:
        client = fast_client(tmp_path / "a.sqlite")
        with pytest.raises(kind, match=said):
            client.fetch(ServerRequest(url, "a=1", divisible=True), post_form, read)
    assert len(log.visits) == 1
    assert stored_by_endpoint(client.cache) == {}


TOO_MUCH = {
    "413": html(413, "Too large"),
    "504": html(504, "Gateway timeout"),
    "500 with a stack trace": Reply(500, "text/plain", b"java.util.concurrent.TimeoutException at com.bigdata"),
    "no answer in time": GOOD._replace(silence=4.0),
}


@pytest.mark.parametrize("bad", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_what_is_too_much_is_stored_when_it_can_be_divided(bad: Reply, tmp_path: Path) -> None:
    log = Log()
    with serve_answers(Bad(bad), log) as url:
        client = fast_client(tmp_path / "a.sqlite", impatient())
        for _ in range(2):
            with pytest.raises(QueryTooLarge):
                client.fetch(ServerRequest(url, "a=1", divisible=True), post_form, read)
        assert len(log.visits) == 1
        assert fast_client(tmp_path / "b.sqlite", impatient()).fetch(ServerRequest(url, "a=1"), post_form, read) == {
            "good": True
        }


def test_a_time_named_with_a_failure_that_is_divided_is_kept(tmp_path: Path) -> None:
    log = Log()
    with serve_answers(Bad(html(504, "Gateway timeout")._replace(headers={"Retry-After": "50"})), log) as url:
        client = fast_client(tmp_path / "a.sqlite")
        with pytest.raises(QueryTooLarge):
            client.fetch(ServerRequest(url, "a=1", divisible=True), post_form, read)
        client.fetch(ServerRequest(url, "a=2"), post_form, read)
    assert log.visits[1].began - log.visits[0].ended >= 50 / SPEED


@pytest.mark.parametrize("bad", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_what_is_too_much_and_cannot_be_divided_is_asked_again(bad: Reply, tmp_path: Path) -> None:
    log = Log()
    with serve_answers(Bad(bad), log) as url:
        client = fast_client(tmp_path / "a.sqlite", impatient())
        assert client.fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}
    assert len(log.visits) == 2


def test_a_server_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        port = unheard.getsockname()[1]
    with pytest.raises(SourceError, match="no complete response came"):
        fast_client(tmp_path / "a.sqlite", impatient()).fetch(
            ServerRequest(f"http://127.0.0.1:{port}/", "a=1"), post_form, read
        )


def test_without_an_agent_nobody_is_asked(tmp_path: Path) -> None:
    log = Log()
    with serve_answers(lambda _: GOOD, log) as url:
        fast_client(tmp_path / "a.sqlite").fetch(ServerRequest(url, "a=1"), post_form, read)
        offline = fast_client(tmp_path / "a.sqlite", offline=True)
        assert offline.fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}
        with pytest.raises(SourceError, match=r"without --replay"):
            offline.fetch(ServerRequest(url, "a=2"), post_form, read)
    assert len(log.visits) == 1


def test_what_was_used_is_known_by_its_content(tmp_path: Path) -> None:
    with serve_answers(lambda asked: GOOD._replace(body=json.dumps({"you": asked.body}).encode())) as url:
        first, second = fast_client(tmp_path / "a.sqlite"), fast_client(tmp_path / "a.sqlite")
        for client, order in ((first, "12"), (second, "21")):
            for text in order:
                client.fetch(ServerRequest(url, text), post_form, read)
        assert first.used(url) == second.used(url)
        assert first.used(url)["responses"] == 2 and second.sent == 0
        assert first.used("http://other")["responses"] == 0
        first.fetch(ServerRequest(url, "3"), post_form, read)
        assert first.used(url)["sha256"] != second.used(url)["sha256"]


@pytest.mark.parametrize("contact", [None, "", "  ", "Ada", "@", "a@b\r\nHost: x", "(a@b)"])
def test_a_contact_is_needed(contact: str | None) -> None:
    with pytest.raises(BadInput, match="--contact"):
        user_agent(contact)


def test_retry_after_that_names_no_time() -> None:
    assert retry_after({}, 0.0) is None
    assert retry_after({"retry-after": "-3"}, 0.0) is None
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 50.0) == 0.0


def test_a_good_status_passes() -> None:
    check_status("here", Response(200, {"content-type": "application/sparql-results+json"}, b"{}"), time.time())


def test_clients_are_told_apart_by_their_caches(tmp_path: Path) -> None:
    with serve_answers(lambda _: GOOD) as url:
        client: Client = fast_client(tmp_path / "a.sqlite")
        client.fetch(ServerRequest(url, "a=1"), post_form, read)
        assert client.counts().new == 1
        other = tmp_path / "b.sqlite"
        assert fast_client(other).counts() == (0, 0, 0, None, other)


def test_a_compressed_response_is_read_and_half_of_one_is_not(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD.body)
    compressed = GOOD._replace(body=packed, headers={"Content-Encoding": "gzip"})
    log = Log()
    with serve_answers(Bad(compressed._replace(body=packed[:-9]), compressed), log) as url:
        client = fast_client(tmp_path / "a.sqlite")
        assert client.fetch(ServerRequest(url, "a=1"), post_form, read) == {"good": True}
        assert client.cache.find(url, "a=1") is not None
    assert client.sent == 2
