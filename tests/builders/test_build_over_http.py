"""The whole pipeline over HTTP: the local build's bytes, through every failure, from a cache alone, after kills."""

import itertools
import json
import logging
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyoxigraph import RdfFormat, Store

from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.articles import LocalArticles
from counterfact.builders.sources.cache import ResponseCache
from counterfact.builders.sources.client import Client
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.http import Refused
from counterfact.builders.sources.local_store import StoreSource, read_facts_table
from counterfact.builders.sources.opened import Sources
from counterfact.builders.sources.pararel_download import fetch_pararel
from counterfact.builders.sources.sparql import SourceError
from counterfact.builders.sources.wikipedia import Wikipedia
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder
from tests.builders.test_counterfact import contents
from tests.builders.test_sparql import emptied, stack_trace, store_of
from tests.support import ROOT
from tests.support.fast_client import FAST, SPEED, fast_client, impatient, stored_by_endpoint
from tests.support.made_up_world import World, small_world
from tests.support.sparql_server import query_of, serve
from tests.support.web_server import Asked, Log, Reply, Spoil, serve_answers
from tests.support.wiki_server import serve_wiki

_LOG = logging.getLogger(__name__)
SETTINGS = BuildSettings(reference_texts=6)


class Place(NamedTuple):
    """A world on disk, and its build from local files."""

    folder: Path
    sources: Sources
    whole: dict[str, Any]


def without_sources(out: Path) -> dict[str, Any]:
    """What a build holds, but for where it is from: as a whole, and by text."""
    found = contents(out)
    found["build.json"].pop("sources")
    entries = [json.loads(line) for line in found["reference_texts.jsonl"].splitlines()]
    for entry in entries:
        entry["samples"] = [(sample["name"], sample["text"]) for sample in entry["samples"]]
    return found | {"reference_texts.jsonl": entries}


def awkward_world(relations: int) -> World:
    """Labels with quotes, braces and other scripts, labels in `mul`, two people of one name, people without a label."""
    world = small_world(("P103", "P106", "P108", "P127")[:relations], people=45)
    for id, label in {"Q101": 'Ana "the Oar" Roe', "Q102": "Bo {} Rust", "Q103": "Ольга Жук", "Q104": "李明"}.items():
        old, world.labels[id] = world.labels[id], label
        world.tuples["P103"] = [(u, label if s == old else s, o) for u, s, o in world.tuples["P103"]]
    world.mul = {"Q2", "Q103", "Q110", "Q211"}
    world.labels["Q120"] = world.labels["Q121"]
    world.facts += [("Q998", "P103", "Q1"), ("Q997", "P103", "Q2")]
    names = Counter(world.labels.values())
    world.titles = {id: f"{label} ({id})" for id, label in world.labels.items() if names[label] > 1}
    return world


def make(folder: Path, relations: int) -> Place:
    sources = awkward_world(relations).write(folder / "world")
    build_from_sources(sources, SETTINGS, folder / "local")
    return Place(folder, sources, without_sources(folder / "local"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make(tmp_path_factory.mktemp("place"), 2)


class Servers(NamedTuple):
    """Where the three services are, and what they were asked."""

    sparql: str
    wiki: str
    pararel: str
    logs: tuple[Log, Log, Log]

    def sources(self, place: Place, client: Client) -> Sources:
        articles = place.sources.articles
        assert articles is not None
        return replace(
            place.sources,
            facts=EndpointSource(self.sparql, client),
            articles=Wikipedia(client, articles, self.wiki, self.wiki),
            pararel=fetch_pararel(client, place.folder / "fetched", self.pararel, None),
        )

    def build(self, place: Place, client: Client, out: Path) -> dict[str, Any]:
        build_from_sources(self.sources(place, client), SETTINGS, out)
        return without_sources(out)

    @property
    def asked(self) -> list[Asked]:
        return [asked for log in self.logs for asked in log.asked]

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Address and text of what was asked, as the cache has them, in the order in which it came."""
        visits = sorted((visit for log in self.logs for visit in log.visits), key=lambda visit: visit.began)
        return [self._question(visit.asked) for visit in visits]

    def _question(self, asked: Asked) -> tuple[str, str]:
        if asked.path == "/sparql":
            return self.sparql, query_of(asked)
        return (self.wiki, asked.body) if asked.body else (self.pararel.removesuffix("/data") + asked.path, "")


@contextmanager
def services(place: Place, spoil: Spoil = lambda reply, _asked: reply) -> Iterator[Servers]:
    articles = place.sources.articles
    assert isinstance(articles, LocalArticles)
    site = articles.site
    iris = [site + json.loads(line)["id"] for line in articles.files[0].read_text(encoding="utf-8").splitlines()]
    texts = {iri.removeprefix(site): article for iri, article in articles.read(iris).items()}
    names = [article.name for article in texts.values()]
    linked = {id: article.name.replace(" ", "_") for id, article in texts.items() if article.name == names[3]}

    def page(asked: Asked) -> Reply:
        file = place.sources.pararel / asked.path.removeprefix("/data/")
        if not file.is_file():
            return Reply(404, "text/plain", b"404: Not Found")
        return Reply(200, "text/plain; charset=utf-8", file.read_bytes())

    logs = (Log(), Log(), Log())
    with (
        serve(store_of(place.folder / "world/wikidata/facts.nt"), logs[0], spoil) as sparql,
        serve_wiki(texts, logs[1], spoil, linked=linked) as wiki,
        serve_answers(page, logs[2], spoil) as pages,
    ):
        yield Servers(sparql, wiki, f"{pages}/data", logs)


def test_the_build_over_http_is_the_local_build(place: Place, tmp_path: Path) -> None:
    with services(place) as there:
        client = fast_client(tmp_path / "a.sqlite")
        assert there.build(place, client, tmp_path / "first") == place.whole
        assert there.build(place, fast_client(tmp_path / "a.sqlite"), tmp_path / "second") == place.whole
        assert len(there.asked) == client.sent == sum(stored_by_endpoint(client.cache).values())
    first, second = (json.loads((tmp_path / out / "build.json").read_text())["sources"] for out in ("first", "second"))
    assert first == second
    sample = json.loads((tmp_path / "first/reference_texts.jsonl").read_text().splitlines()[0])["samples"][0]
    assert set(sample) == {"name", "text", "page_id", "revision_id", "url", "time", "licence"}
    assert first["facts"]["responses"] > 0 and first["articles"]["taken"][there.wiki]["responses"] > 0


def test_a_cache_is_enough_here_and_elsewhere(place: Place, tmp_path: Path) -> None:
    with services(place) as there:
        client = fast_client(tmp_path / "a.sqlite")
        there.build(place, client, tmp_path / "live")
        client.pack(tmp_path / "elsewhere" / "packed.sqlite")
    offline = fast_client(tmp_path / "elsewhere" / "packed.sqlite", offline=True)
    again = there.build(place._replace(folder=tmp_path / "elsewhere"), offline, tmp_path / "replayed")
    assert again == place.whole
    builds = [json.loads((tmp_path / out / "build.json").read_text())["sources"] for out in ("live", "replayed")]
    assert builds[0] == builds[1]
    lacking = fast_client(tmp_path / "elsewhere" / "packed.sqlite", offline=True)
    with pytest.raises(SourceError, match="without --replay"):
        sources = there.sources(place, lacking)
        build_from_sources(sources, BuildSettings(seed=1, reference_texts=9), tmp_path / "other")


@contextmanager
def oxigraph(facts: Path, folder: Path) -> Iterator[str]:
    """Serve facts with Oxigraph's own server, which has nothing of ours in it, and yield the address."""
    program = Path(sys.executable).with_name("oxigraph")
    if not program.exists():
        pytest.skip("needs the server of Oxigraph: pip install -e '.[dev]'")
    subprocess.run([program, "load", "--location", folder, "--file", facts], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = [program, "serve-read-only", "--location", folder, "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen(given, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/query"
        finally:
            server.terminate()


def test_the_build_from_a_server_of_others_is_the_local_build(place: Place, tmp_path: Path) -> None:
    with oxigraph(place.folder / "world/wikidata/facts.nt", tmp_path / "store") as url:
        client = fast_client(tmp_path / "a.sqlite")
        sources = replace(place.sources, facts=EndpointSource(url, client))
        build_from_sources(sources, SETTINGS, tmp_path / "out")
    assert client.sent > 0
    assert without_sources(tmp_path / "out") == place.whole


def later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def date(seconds: float) -> dict[str, str]:
    from email.utils import formatdate

    return {"Retry-After": formatdate(FAST.clock.now() + seconds, usegmt=True)}


MAXLAG = b'{"error": {"code": "maxlag", "info": "Waiting: 7 seconds lagged", "lag": 7}}'
FAULTS: dict[str, Callable[[Reply, Asked], Reply]] = {
    "429 with seconds": lambda reply, _: Reply(429, "text/plain", b"slow", headers=later(20)),
    "429 with a date": lambda reply, _: Reply(429, "text/plain", b"slow", headers=date(30)),
    "429": lambda reply, _: Reply(429, "text/plain", b"slow"),
    "500": lambda reply, _: Reply(500, "text/plain", b"out of memory"),
    "502": lambda reply, _: Reply(502, "text/html", b"<h1>Bad gateway</h1>"),
    "503": lambda reply, _: Reply(503, "text/html", b"<h1>Down</h1>", headers=later(15)),
    "504": lambda reply, _: Reply(504, "text/html", b"<h1>Gateway timeout</h1>"),
    "cut off on the way": lambda reply, _: reply._replace(body=reply.body[:-1], announced=len(reply.body)),
    "a page": lambda reply, _: Reply(200, "text/html", b"<html>Wartung</html>"),
}
IN_JSON: dict[str, Callable[[Reply, Asked], Reply]] = {
    "truncated": lambda reply, _: reply._replace(body=reply.body[: len(reply.body) // 2]),
    "nothing": lambda reply, _: reply._replace(body=b""),
}
IN_SPARQL: dict[str, Callable[[Reply, Asked], Reply]] = {
    "a stack trace": stack_trace,
    "500 for time": lambda reply, _: Reply(500, "text/plain", b"java.util.concurrent.TimeoutException"),
    "empty": lambda reply, _: emptied(reply),
    "doubled": lambda reply, _: doubled(reply),
}
IN_API: dict[str, Callable[[Reply, Asked], Reply]] = {
    "maxlag": lambda reply, _: Reply(200, "application/json", MAXLAG, headers=later(7)),
}


def doubled(reply: Reply) -> Reply:
    value = json.loads(reply.body)
    value["results"]["bindings"] = [row for row in value["results"]["bindings"] for _ in range(2)]
    return reply._replace(body=json.dumps(value).encode())


class Weather:
    """Spoils a share of the answers, in ways drawn by a seed, but the same question no more than three times."""

    def __init__(self, seed: int, share: float, only: str | None = None) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._only = only
        self._spoilt: Counter[str] = Counter()

    def __call__(self, reply: Reply, asked: Asked) -> Reply:
        faults = dict(FAULTS)
        if asked.path == "/sparql":
            faults |= IN_JSON | IN_SPARQL
        elif asked.path.endswith("api.php"):
            faults |= IN_JSON | IN_API
        names = [name for name in faults if self._only in (None, name)]
        # An answer that is empty twice is believed, and rightly so; a question is spoilt so only once.
        if self._spoilt[asked.body + asked.path] and "empty" in names:
            names.remove("empty")
        if "asked+again" in asked.body or reply.status != 200 or not names or self._random.random() >= self._share:
            return reply
        name = self._random.choice(names)
        self._spoilt[asked.body + asked.path] += 1
        return faults[name](reply, asked) if self._spoilt[asked.body + asked.path] <= 3 else reply


def check_politeness(there: Servers) -> None:
    """Assert from the logs that the servers were asked one question at a time, and left alone when told."""
    for log in there.logs:
        assert log.most_at_once == 1
    visits = sorted((visit for log in there.logs for visit in log.visits), key=lambda visit: visit.began)
    for before, after in itertools.pairwise(visits):
        assert after.began - before.ended >= FAST.pause / SPEED
        assert before.reply is not None
        if before.reply.status == 429 or before.asked == after.asked:
            assert after.began - before.ended >= FAST.first_wait / SPEED
        named = before.reply.headers.get("Retry-After", "60" if before.reply.status == 429 else "0")
        if named.isdigit():
            assert after.began - before.ended >= int(named) / SPEED


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    from counterfact.builders.sources import knowledge, relation_queries, resolving, surroundings

    monkeypatch.setattr(resolving, "PAIRS_A_QUERY", size)
    for module in (knowledge, relation_queries, resolving, surroundings):
        monkeypatch.setattr(module, "ENTITIES_A_QUERY", size)
    monkeypatch.setattr(knowledge, "ROWS_A_PAGE", 3 * size)


@pytest.mark.parametrize("fault", [*FAULTS, *IN_JSON, *IN_SPARQL, *IN_API])
def test_one_kind_of_failure_changes_nothing(fault: str, place: Place, tmp_path: Path) -> None:
    with services(place, Weather(1, 0.2, fault)) as there:
        assert there.build(place, fast_client(tmp_path / "a.sqlite"), tmp_path / "out") == place.whole
        check_politeness(there)


def test_answers_that_never_come_change_nothing(place: Place, tmp_path: Path) -> None:
    asked_before: set[Asked] = set()

    def silent(reply: Reply, asked: Asked) -> Reply:
        first = asked not in asked_before
        asked_before.add(asked)
        return reply._replace(silence=4.0) if first and len(asked_before) % 40 == 3 else reply

    with services(place, silent) as there:
        client = fast_client(tmp_path / "a.sqlite", impatient(tries=5))
        assert there.build(place, client, tmp_path / "out") == place.whole
        assert len(there.asked) > len(asked_before)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
def test_a_mixture_of_all_failures_changes_nothing(
    seed: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch, 3)
    with services(place, Weather(seed, 0.5)) as there:
        client = fast_client(tmp_path / "a.sqlite")
        assert there.build(place, client, tmp_path / "out") == place.whole
        check_politeness(there)
        assert len(there.asked) == client.sent > 300
        _LOG.info("seed %d: %d requests, %d stored", seed, client.sent, client.counts().new)
    offline = fast_client(tmp_path / "a.sqlite", offline=True)
    assert there.build(place, offline, tmp_path / "replayed") == place.whole


@pytest.mark.parametrize("service", ["sparql", "api.php", "data"])
@pytest.mark.parametrize("page", [b"Please set a user-agent", b"You have been banned until 2026-12-24"])
def test_a_build_that_is_refused_stops_and_goes_on_later(
    service: str, page: bytes, place: Place, tmp_path: Path
) -> None:
    answered = 0
    refusing = True

    def refuse(reply: Reply, asked: Asked) -> Reply:
        nonlocal answered
        answered += service in asked.path
        return Reply(403, "text/html", page) if refusing and service in asked.path and answered > 3 else reply

    with services(place, refuse) as there:
        with pytest.raises(Refused, match="banned until 2026-12-24" if b"ban" in page else "--contact"):
            there.build(place, fast_client(tmp_path / "a.sqlite"), tmp_path / "out")
        assert answered == 4 and not (tmp_path / "out").exists()
        refusing = False
        assert there.build(place, fast_client(tmp_path / "a.sqlite"), tmp_path / "out") == place.whole
        assert [count for count in Counter(there.asked).values() if count > 1] == [2]


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from counterfact.builders.sources.articles import LocalArticles
from counterfact.builders.sources.opened import Sources
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.pararel_download import fetch_pararel
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.wikipedia import Wikipedia
from tests.support.fast_client import fast_client
from tests.builders.test_build_over_http import SETTINGS
world, out, cache, sparql, wiki, pararel = sys.argv[1:]
world = Path(world)
client = fast_client(Path(cache))
print("ready", flush=True)
build_from_sources(Sources(
    fetch_pararel(client, Path(cache + ".files"), pararel, None), EndpointSource(sparql, client),
    world / "generation", Wikipedia(client, LocalArticles.open(world / "articles"), wiki, wiki)), SETTINGS, Path(out))
"""


def begin(place: Place, there: Servers, out: Path, cache: Path) -> "subprocess.Popen[bytes]":
    """Start a build in a process of its own, and return when it begins to ask."""
    given = [place.folder / "world", out, cache, there.sparql, there.wiki, there.pararel]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, given)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def run_killed(place: Place, there: Servers, out: Path, delay: float | None) -> float:
    """Build in a process of its own, kill it `delay` seconds after its start, and return how long it ran."""
    process = begin(place, there, out, out.with_suffix(".sqlite"))
    assert process.stdout is not None
    started = time.perf_counter()
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    process.stdout.close()
    assert delay is not None or code == 0
    return time.perf_counter() - started


def stored_questions(cache: Path) -> set[tuple[str, str]]:
    """Return what lies in a cache, which must be whole."""
    with sqlite3.connect(cache) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = set(database.execute("SELECT endpoint, request FROM responses"))
    database.close()
    return found


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_kill_9_at_random_moments_of_a_build_over_http(times: int, place: Place, tmp_path: Path) -> None:
    moments = random.Random(times)
    asked = 0
    with services(place) as there:
        seconds = run_killed(place, there, tmp_path / "whole", None)
        assert without_sources(tmp_path / "whole") == place.whole
        for n in range(times):
            for log in there.logs:
                log.visits.clear()
            out = tmp_path / f"out-{n}"
            run_killed(place, there, out, moments.uniform(0, seconds))
            assert not out.exists() or without_sources(out) == place.whole
            stored = stored_questions(out.with_suffix(".sqlite"))
            before = len(there.questions)
            assert before - len(stored) in (0, 1), "all that was asked is stored, but for what was in flight"
            run_killed(place, there, out, None)
            assert without_sources(out) == place.whole
            assert not stored & set(there.questions[before:])
            asked += before
        _LOG.info("%d kills, %d questions before them", times, asked)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_two_processes_with_one_cache_ask_by_turns_and_nothing_twice(
    share: float, place: Place, tmp_path: Path
) -> None:
    weather = Weather(3, share)

    def slow(reply: Reply, asked: Asked) -> Reply:
        return weather(reply, asked)._replace(silence=0.02)

    with services(place, slow) as there:
        outs = [tmp_path / name for name in ("first", "second")]
        processes = [begin(place, there, out, tmp_path / "shared.sqlite") for out in outs]
        for process in processes:
            assert process.stdout is not None
            assert process.wait() == 0
            process.stdout.close()
        for log in there.logs:
            assert log.most_at_once == 1
            for before, after in itertools.pairwise(log.visits):
                assert before.reply is not None
                named = before.reply.headers.get("Retry-After", "60" if before.reply.status == 429 else "0")
                pause = max(FAST.pause, int(named) if named.isdigit() else 0.0)
                assert after.began - before.ended >= pause / SPEED
        good = Counter(
            visit.asked for log in there.logs for visit in log.visits if visit.reply and visit.reply.status == 200
        )
        assert share or max(good.values()) == 1
    assert [without_sources(out) for out in outs] == [place.whole, place.whole]
    with closing(ResponseCache(tmp_path / "shared.sqlite", read_only=True)) as cache:
        assert sum(stored_by_endpoint(cache).values()) >= len(good)


def test_pararel_that_is_not_what_was_pinned_is_refused(place: Place, tmp_path: Path) -> None:
    with services(place) as there:
        client = fast_client(tmp_path / "a.sqlite")
        with pytest.raises(BadInput, match="expected ParaRel with the content c79f6c9f"):
            fetch_pararel(client, tmp_path, there.pararel)
        with pytest.raises(BadInput, match="no ParaRel at"):
            fetch_pararel(client, tmp_path, f"{there.pararel}/elsewhere", None)


def test_the_pinned_content_is_that_of_the_real_pararel(real_data: Path, tmp_path: Path) -> None:
    def page(asked: Asked) -> Reply:
        file = real_data / asked.path.removeprefix("/data/")
        there = file.is_file()
        return Reply(200 if there else 404, "text/plain", file.read_bytes() if there else b"")

    log = Log()
    with serve_answers(page, log) as url:
        folder = fetch_pararel(fast_client(tmp_path / "a.sqlite"), tmp_path, f"{url}/data/pararel")
        assert fetch_pararel(fast_client(tmp_path / "a.sqlite"), tmp_path, f"{url}/data/pararel") == folder
    assert len(log.visits) == 82
    names = [file.relative_to(folder) for file in folder.rglob("*.jsonl")]
    assert len(names) == 80
    assert all((folder / name).read_bytes() == (real_data / "pararel" / name).read_bytes() for name in names)


@pytest.mark.soak
def test_the_real_build_over_http_is_the_local_build(real_data: Path, tmp_path: Path) -> None:
    facts = StoreSource.open(real_data / "wikidata" / "facts.tsv.gz")
    local = Sources(real_data / "pararel", facts, data_folder() / "prompts" / "generation", None)
    settings = BuildSettings(name="counterfact-real", paraphrase_context="none")
    build_from_sources(local, settings, tmp_path / "local")
    store = Store()
    store.bulk_load(read_facts_table(real_data / "wikidata" / "facts.tsv.gz"), RdfFormat.N_TRIPLES)
    log = Log()
    with serve(store, log, Weather(1, 0.1)) as url:
        client = fast_client(tmp_path / "a.sqlite")
        build_from_sources(replace(local, facts=EndpointSource(url, client)), settings, tmp_path / "http")
    assert without_sources(tmp_path / "http") == without_sources(tmp_path / "local")
    _LOG.info("%d requests, %d bytes of cache", len(log.visits), (tmp_path / "a.sqlite").stat().st_size)
