"""The two sources of facts: they agree, and neither takes a failure for an empty answer."""

import gzip
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyoxigraph import RdfFormat, Store

from builders import knowledge, queries
from builders.counterfact import BuildSettings, build_counterfact
from builders.knowledge import Knowledge, gather
from builders.pararel import load_pararel
from builders.queries import DIRECT, ENTITY, LABEL
from builders.wikidata import EndpointSource, SourceError, StoreSource, read_answer
from core.errors import BadInput
from core.places import data_folder
from tests.made_up_world import World, small_world
from tests.sparql_server import Asked, Reply, Spoil, serve

AGENT = "tests/1 (https://example.invalid; tests@example.invalid)"
QUERY = queries.objects("P103", ["Q100", "Q101"])


def store_of(*files: Path) -> Store:
    store = Store()
    for file in files:
        store.bulk_load(path=str(file), format=RdfFormat.N_TRIPLES)
    return store


@pytest.fixture()
def world() -> World:
    made = small_world()
    made.mul = {"Q2", "Q103", "Q110"}
    made.labels["Q999"] = "Zarr"
    made.facts.append(("Q998", "P103", "Q1"))
    return made


def test_the_two_sources_agree(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    log: list[Asked] = []
    with serve(store_of(tmp_path / "world/wikidata/facts.nt"), log) as url:
        endpoint = EndpointSource(url, AGENT)
        for relation in load_pararel(sources.pararel):
            assert gather(relation, endpoint) == gather(relation, sources.facts)
        settings = BuildSettings()
        build_counterfact(replace(sources, facts=endpoint), settings, tmp_path / "http")
    build_counterfact(sources, settings, tmp_path / "local")
    for name in ("records.jsonl", "reference_texts.jsonl", "stats.json"):
        assert (tmp_path / "http" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert {asked.agent for asked in log} == {AGENT}


def test_the_two_sources_agree_on_the_embedded_slice() -> None:
    data = data_folder()
    files = sorted((data / "wikidata").glob("*.nt"))
    local = StoreSource.open(data / "wikidata")
    relations = [relation for relation in load_pararel(data / "pararel") if relation.id in ("P36", "P103", "P641")]
    with serve(store_of(*files), []) as url:
        for relation in relations:
            assert gather(relation, EndpointSource(url, AGENT)) == gather(relation, local)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_engine_gives_the_same(world: World, tmp_path: Path) -> None:
    """rdflib, behind rdflib-endpoint: the query texts hold nothing of one vendor."""
    rdflib = pytest.importorskip("rdflib")
    endpoint = pytest.importorskip("rdflib_endpoint")
    sources = world.write(tmp_path)
    data = rdflib.Dataset(default_union=True)
    data.parse(str(tmp_path / "wikidata/facts.nt"), format="nt")
    with uvicorn_of(endpoint.SparqlEndpoint(graph=data)) as url:
        relation = load_pararel(sources.pararel)[0]
        asked = replace(relation, tuples=relation.tuples[:8])
        assert gather(asked, EndpointSource(url, AGENT)) == gather(asked, sources.facts)
        text = queries.articles(["Q100", "Q101"], "https://articles.counterfact.invalid/")
        assert EndpointSource(url, AGENT).select(text) == sources.facts.select(text)


class uvicorn_of:
    """An application on loopback."""

    def __init__(self, app: object) -> None:
        uvicorn = pytest.importorskip("uvicorn")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/"

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def stack_trace(reply: Reply) -> Reply:
    return reply._replace(body=reply.body[: len(reply.body) // 2] + b"\njava.util.concurrent.TimeoutException")


SPOILS: dict[str, Spoil] = {
    "500": lambda reply: Reply(500, "text/plain", b"out of memory"),
    "502": lambda reply: Reply(502, "text/html", b"<h1>Bad gateway</h1>"),
    "429": lambda reply: Reply(429, "text/plain", b"slow down"),
    "403": lambda reply: Reply(403, "text/html", b"<h1>Set a user agent</h1>"),
    "400": lambda reply: Reply(400, "text/plain", b"parse error"),
    "a page": lambda reply: Reply(200, "text/html", b"<html>You have been banned</html>"),
    "nothing": lambda reply: reply._replace(body=b""),
    "truncated": lambda reply: reply._replace(body=reply.body[:-20]),
    "truncated with a stack trace": stack_trace,
    "cut off on the way": lambda reply: reply._replace(body=reply.body[:-20], announced=len(reply.body)),
    "JSON of another form": lambda reply: reply._replace(body=b'{"error": "maxlag"}'),
    "a boolean": lambda reply: reply._replace(body=b'{"head": {}, "boolean": true}'),
    "no rows": lambda reply: reply._replace(body=b'{"head": {"vars": ["subject"]}, "results": {}}'),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_failure_is_never_an_empty_answer(spoil: Spoil, world: World, tmp_path: Path) -> None:
    world.write(tmp_path)
    with (
        serve(store_of(tmp_path / "wikidata/facts.nt"), [], spoil) as url,
        pytest.raises(SourceError, match="Nothing was taken"),
    ):
        EndpointSource(url, AGENT).select(QUERY)


def test_an_unreachable_server_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        port = unheard.getsockname()[1]
    with pytest.raises(SourceError, match="no whole answer"):
        EndpointSource(f"http://127.0.0.1:{port}/", AGENT).select(QUERY)


def test_a_server_that_never_answers_is_given_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(SourceError, match="no whole answer"),
    ):
        EndpointSource(f"http://127.0.0.1:{mute.getsockname()[1]}/", AGENT, timeout=1).select(QUERY)


def test_pages_by_key_give_what_one_page_gives(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = world.write(tmp_path)
    relation = load_pararel(sources.pararel)[0]
    whole = gather(relation, sources.facts)
    for rows in (1, 2, 7):
        monkeypatch.setattr(knowledge, "ROWS_A_PAGE", rows)
        assert gather(relation, sources.facts) == whole
    assert Knowledge.from_json(whole.to_json()) == whole


@pytest.fixture()
def trap(tmp_path: Path) -> Iterator[StoreSource]:
    """A store with what WikiData really holds: unknown values, labels in no language of ours, labels in `mul`."""
    lines = [
        f'<{ENTITY}Q1> <{LABEL}> "Aldic"@en .',
        f'<{ENTITY}Q2> <{LABEL}> "Bo"@mul .',
        f'<{ENTITY}Q2> <{LABEL}> "Beau"@fr .',
        f'<{ENTITY}Q3> <{LABEL}> "Che"@en .',
        f'<{ENTITY}Q3> <{LABEL}> "Tche"@mul .',
        f'<{ENTITY}Q4> <{LABEL}> "Dé"@fr .',
        f'<{ENTITY}Q5> <{LABEL}> "Che"@en .',
        *(f"<{ENTITY}Q{n}> <{DIRECT}P103> <{ENTITY}Q1> ." for n in (2, 3, 4, 5)),
        f"<{ENTITY}Q2> <{DIRECT}P103> _:somebody .",
        f"<{ENTITY}Q3> <{DIRECT}P103> <http://www.wikidata.org/.well-known/genid/abc> .",
    ]
    (tmp_path / "facts.nt").write_text("\n".join(lines), encoding="utf-8")
    yield StoreSource.open(tmp_path / "facts.nt")


def test_labels_and_unknown_values_of_wikidata(trap: StoreSource, tmp_path: Path) -> None:
    pairs = [("Bo", "Aldic"), ("Che", "Aldic"), ("Tche", "Aldic"), ("Dé", "Aldic"), ("Beau", "Aldic")]
    world = World({}, [], {"P103": [(str(n), s, o) for n, (s, o) in enumerate(pairs)]})
    world.facts.append(("Q2", "P103", "Q1"))
    world.write(tmp_path / "world")
    (relation,) = load_pararel(tmp_path / "world" / "pararel")
    found = gather(relation, trap)
    assert found.resolved == {("Bo", "Aldic"): ("Q2", "Q1"), ("Che", "Aldic"): ("Q3", "Q1")}
    assert found.objects == {"Q2": ("Q1",), "Q3": ("Q1",)}
    assert [(holder.id, holder.label) for holder in found.holders["Q1"]] == [("Q2", "Bo"), ("Q3", "Che"), ("Q5", "Che")]
    assert found.counts == {
        "tuples": 5,
        "resolved": 2,
        "ambiguous": 1,
        "subject labels shared": 0,
        "object labels shared": 0,
        "holders": 4,
        "holders without a label": 1,
        "rows with an unknown value": 2,
    }


def test_files_of_every_form_hold_the_same(tmp_path: Path) -> None:
    table = tmp_path / "facts.tsv"
    header = "subject_id\tsubject_label\tproperty_id\tobject_id\tobject_label\tsource\n"
    table.write_text(f'{header}Q2\tBo "B"\tP103\tQ1\tAldic\tx\nQ3\tZoë\tP103\tQ1\tAldic\ty\n', encoding="utf-8")
    (tmp_path / "facts.tsv.gz").write_bytes(gzip.compress(table.read_bytes()))
    turtle = (
        f"@prefix wd: <{ENTITY}> . @prefix wdt: <{DIRECT}> .\n"
        f'wd:Q2 wdt:P103 wd:Q1 ; <{LABEL}> "Bo \\"B\\""@en . wd:Q3 wdt:P103 wd:Q1 ; <{LABEL}> "Zoë"@en .\n'
        f'wd:Q1 <{LABEL}> "Aldic"@en .'
    )
    (tmp_path / "facts.ttl").write_text(turtle, encoding="utf-8")
    (tmp_path / "facts.ttl.gz").write_bytes(gzip.compress(turtle.encode()))
    query = queries.resolve("P103", [('Bo "B"', "Aldic"), ("Zoë", "Aldic")])
    answers = [
        StoreSource.open(tmp_path / f"facts.{form}").select(query) for form in ("tsv", "tsv.gz", "ttl", "ttl.gz")
    ]
    assert len(answers[0].rows) == 2
    assert answers == [answers[0]] * 4


def test_files_that_are_not_facts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no facts at"):
        StoreSource.open(tmp_path)
    for name, text, said in (
        ("a.nt", "not triples", "a.nt"),
        ("b.nt.gz", "not compressed", "b.nt.gz"),
        ("c.tsv", "a\tb\n", "c.tsv:1"),
        ("d.tsv", "subject_id\tsubject_label\tproperty_id\tobject_id\tobject_label\nQ1\tx\tP1\n", "d.tsv:2"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=said):
            StoreSource.open(tmp_path / name).select(QUERY)


def test_ids_are_checked_before_they_enter_a_query() -> None:
    with pytest.raises(ValueError, match="expected an id"):
        queries.objects("P103", ["Q1> ?x ?y"])
    with pytest.raises(ValueError, match="expected an id"):
        queries.resolve("P103 | P1", [])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_can_be_asked_for(text: str) -> None:
    store = Store()
    answer = store.query(f"SELECT ?x WHERE {{ VALUES ?x {{ {queries.literal(text)} }} }}")
    assert [solution["x"].value for solution in answer] == [text]  # type: ignore[union-attr, index]


@given(st.integers(0, 200))
def test_no_prefix_of_an_answer_is_an_answer(length: int) -> None:
    body = b'{"head":{"vars":["s"]},"results":{"bindings":[{"s":{"type":"uri","value":"urn:a"}}]}}'
    if length < len(body):
        with pytest.raises(SourceError):
            read_answer(body[:length], "here")


def test_real_turtle_of_wikidata(real_data: Path) -> None:
    source = StoreSource.open(real_data / "wikidata_rdf")
    rows = source.select(queries.objects("P19", ["Q42"])).rows
    assert [queries.entity_id(row["object"]) for row in rows] == ["Q350"]
    about = source.select(queries.articles(["Q42"], "https://en.wikipedia.org/")).rows
    assert [row["article"] for row in about] == ["https://en.wikipedia.org/wiki/Douglas_Adams"]
