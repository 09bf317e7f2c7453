"""The two sources of facts: they agree, and neither takes a failure for an empty answer."""

import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyoxigraph import RdfFormat, Store

from counterfact.builders.sources import batches, knowledge, queries
from counterfact.builders.sources.client import user_agent
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.knowledge import query_knowledge
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.pararel import load_pararel
from counterfact.builders.sources.queries import DIRECT, ENTITY, LABEL
from counterfact.builders.sources.sparql import SourceError, read_results
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder
from tests.support.fast_client import CONTACT, fast_client, impatient
from tests.support.made_up_world import World, small_world
from tests.support.sparql_server import query_of, serve
from tests.support.web_server import Asked, Log, Reply, Spoil

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
    log = Log()
    with serve(store_of(tmp_path / "world/wikidata/facts.nt"), log) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        for relation in load_pararel(sources.pararel):
            assert query_knowledge(relation, endpoint) == query_knowledge(relation, sources.facts)
    assert {asked.agent for asked in log.asked} == {user_agent(CONTACT)}


def test_the_two_sources_agree_on_the_embedded_slice(tmp_path: Path) -> None:
    data = data_folder()
    files = sorted((data / "wikidata").glob("*.nt"))
    local = StoreSource.open(data / "wikidata")
    relations = [relation for relation in load_pararel(data / "pararel") if relation.id in ("P36", "P103", "P641")]
    with serve(store_of(*files)) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        for relation in relations:
            assert query_knowledge(relation, endpoint) == query_knowledge(relation, local)


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
        there = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        assert query_knowledge(asked, there) == query_knowledge(asked, sources.facts)
        text = queries.articles(["Q100", "Q101"], "https://articles.counterfact.invalid/")
        assert there.select(text) == sources.facts.select(text)
        text = queries.holders("P103", ["Q1", "Q2"], None, 1000, ["Q3", "Q4"])
        assert there.select(text) == sources.facts.select(text)


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


def stack_trace(reply: Reply, asked: Asked) -> Reply:
    return reply._replace(body=reply.body[: len(reply.body) // 2] + b"\njava.util.concurrent.TimeoutException")


SPOILS: dict[str, Spoil] = {
    "500": lambda reply, _: Reply(500, "text/plain", b"out of memory", headers={"Retry-After": "1"}),
    "502": lambda reply, _: Reply(502, "text/html", b"<h1>Bad gateway</h1>"),
    "429": lambda reply, _: Reply(429, "text/plain", b"slow down"),
    "403": lambda reply, _: Reply(403, "text/html", b"<h1>Set a user agent</h1>"),
    "400": lambda reply, _: Reply(400, "text/plain", b"parse error"),
    "404": lambda reply, _: Reply(404, "text/plain", b"no endpoint here"),
    "a page": lambda reply, _: Reply(200, "text/html", b"<html>You have been banned</html>"),
    "another page": lambda reply, _: Reply(200, "text/html", b"<html>It works!</html>"),
    "XML": lambda reply, _: reply._replace(body=b'<?xml version="1.0"?><sparql/>'),
    "nothing": lambda reply, _: reply._replace(body=b""),
    "truncated": lambda reply, _: reply._replace(body=reply.body[:-20]),
    "truncated with a stack trace": stack_trace,
    "cut off on the way": lambda reply, _: reply._replace(body=reply.body[:-20], announced=len(reply.body)),
    "JSON of another form": lambda reply, _: reply._replace(body=b'{"error": "maxlag"}'),
    "a boolean": lambda reply, _: reply._replace(body=b'{"head": {}, "boolean": true}'),
    "no rows": lambda reply, _: reply._replace(body=b'{"head": {"vars": ["subject"]}, "results": {}}'),
}


@pytest.mark.parametrize("spoil", ["another page", "XML", "JSON of another form", "a boolean"])
def test_what_is_no_answer_is_asked_once(spoil: str, world: World, tmp_path: Path) -> None:
    world.write(tmp_path)
    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, SPOILS[spoil]) as url:
        client = fast_client(tmp_path / "a.sqlite")
        with pytest.raises(SourceError, match="look whether"):
            EndpointSource(url, client).select(QUERY)
    assert client.sent == (3 if spoil == "another page" else 1)
    gone = fast_client(tmp_path / "b.sqlite")
    with pytest.raises(SourceError, match="nothing of use answers there"):
        EndpointSource(url, gone).select(QUERY)
    assert gone.sent == 1


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_failure_is_never_an_empty_answer(spoil: Spoil, world: World, tmp_path: Path) -> None:
    world.write(tmp_path)
    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, spoil) as url, pytest.raises(SourceError):
        EndpointSource(url, fast_client(tmp_path / "a.sqlite", impatient())).select(QUERY)


def test_what_is_too_much_is_asked_in_halves(world: World, tmp_path: Path) -> None:
    """An endpoint that bears three things at a time gives what one without a limit gives."""
    sources = world.write(tmp_path)

    def limit(reply: Reply, asked: Asked) -> Reply:
        things = max(query_of(asked).count("@en"), query_of(asked).count(" wd:Q"))
        return stack_trace(reply, asked) if things > 4 else reply

    log = Log()
    with serve(store_of(tmp_path / "wikidata/facts.nt"), log, limit) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        for relation in load_pararel(sources.pararel):
            assert query_knowledge(relation, endpoint) == query_knowledge(relation, sources.facts)
    spoilt = [visit for visit in log.visits if visit.reply is not None and b"java" in visit.reply.body]
    assert 3 < len(spoilt) < len(log.visits) / 2


def test_an_endpoint_that_cuts_its_answers_is_asked_on(world: World, tmp_path: Path) -> None:
    """Some endpoints give so many rows and no more, and do not say so."""
    sources = world.write(tmp_path)

    def cut(reply: Reply, asked: Asked) -> Reply:
        value = json.loads(reply.body)
        if "?own ?mul" in query_of(asked):
            value["results"]["bindings"] = value["results"]["bindings"][:7]
        return reply._replace(body=json.dumps(value).encode())

    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, cut) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        for relation in load_pararel(sources.pararel):
            assert query_knowledge(relation, endpoint) == query_knowledge(relation, sources.facts)


def emptied(reply: Reply) -> Reply:
    value = json.loads(reply.body)
    value["results"]["bindings"] = []
    return reply._replace(body=json.dumps(value).encode())


def test_an_empty_answer_is_asked_again(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path)
    asked_before: set[str] = set()

    def empty_at_first(reply: Reply, asked: Asked) -> Reply:
        first = asked.body not in asked_before and "asked+again" not in asked.body
        asked_before.add(asked.body)
        return emptied(reply) if first else reply

    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, empty_at_first) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        for relation in load_pararel(sources.pararel):
            assert query_knowledge(relation, endpoint) == query_knowledge(relation, sources.facts)


@pytest.mark.parametrize("kind", ["SELECT DISTINCT ?subject ?object", "COUNT(", "?own ?mul"])
def test_a_source_that_contradicts_itself_is_not_believed(kind: str, world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path)

    def spoil(reply: Reply, asked: Asked) -> Reply:
        return emptied(reply) if kind in query_of(asked) else reply

    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, spoil) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        with pytest.raises(SourceError, match="contradicts itself"):
            query_knowledge(load_pararel(sources.pararel)[0], endpoint)


def with_two_tongues() -> World:
    world = small_world(("P103",))
    for n in range(900, 905):
        world.labels[f"Q{n}"] = f"Further Person {n}"
        world.facts += [(f"Q{n}", "P103", "Q1"), (f"Q{n}", "P103", f"Q{2 + n % 2}")]
    world.tuples["P103"] = [fact for n, fact in enumerate(world.tuples["P103"]) if n % 3]
    return world


def test_of_objects_with_very_many_subjects_some_are_known_with_all_their_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuples' own, those met under other objects, and a sample: so no neighbor holds the new object."""
    world = with_two_tongues()
    sources = world.write(tmp_path)
    relation = load_pararel(sources.pararel)[0]
    whole = query_knowledge(relation, sources.facts)
    sizes = sorted(len(held) for held in whole.holders.values())
    monkeypatch.setattr(knowledge, "MANY_SUBJECTS", sizes[1])
    monkeypatch.setattr(knowledge, "SAMPLE", 2)
    less = query_knowledge(relation, sources.facts)
    many = {object for object, held in whole.holders.items() if len(held) > sizes[1]}
    assert less.counts["objects with too many subjects to list"] == len(many) > 0
    met = set(less.objects) | {holder.id for object in set(less.holders) - many for holder in less.holders[object]}
    sampled = {holder.id for object in many for holder in less.holders[object]} - met
    assert 0 < len(sampled) <= 2 * len(many)
    for object, held in whole.holders.items():
        known = tuple(h for h in held if h.id in met | sampled)
        assert less.holders[object] == (known if object in many else held)
    assert any(len(less.holders[object]) < len(whole.holders[object]) for object in many)
    monkeypatch.setattr(knowledge, "SAMPLE", 1000)
    assert query_knowledge(relation, sources.facts).holders == whole.holders


@pytest.mark.parametrize("kind", ["COUNT(", "ORDER BY STR(?object) STR(?subject)\n    LIMIT"])
def test_an_object_that_takes_too_long_has_very_many_subjects(kind: str, tmp_path: Path) -> None:
    sources = with_two_tongues().write(tmp_path)
    relation = load_pararel(sources.pararel)[0]
    whole = query_knowledge(relation, sources.facts)

    def too_long(reply: Reply, asked: Asked) -> Reply:
        query = query_of(asked)
        return Reply(504, "text/plain", b"") if kind in query and re.search(r"\?object { [^}]*wd:Q1 ", query) else reply

    with serve(store_of(tmp_path / "wikidata/facts.nt"), None, too_long) as url:
        client = fast_client(tmp_path / "a.sqlite")
        found = query_knowledge(relation, EndpointSource(url, client))
        sent = client.sent
        offline = EndpointSource(url, fast_client(tmp_path / "a.sqlite", offline=True))
        assert query_knowledge(relation, offline) == found, "the cache keeps what took too long"
    assert found.counts["objects with too many subjects to list"] == 1 and sent < 40
    assert (found.resolved, found.objects, found.holders) == (whole.resolved, whole.objects, whole.holders)


def test_no_query_is_longer_than_servers_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = small_world(("P103",)).write(tmp_path)
    relation = load_pararel(sources.pararel)[0]
    whole = query_knowledge(relation, sources.facts)
    monkeypatch.setattr(batches, "BYTES_A_QUERY", 1_200)
    log = Log()
    with serve(store_of(tmp_path / "wikidata/facts.nt"), log) as url:
        assert query_knowledge(relation, EndpointSource(url, fast_client(tmp_path / "a.sqlite"))) == whole
    assert max(len(query_of(asked).encode()) for asked in log.asked) <= 1_200


def test_labels_in_other_forms_and_merged_objects_are_found_and_counted(tmp_path: Path) -> None:
    """Each form by its own search, after the labels as they are; what the searches find is counted apart."""
    labels = {"Q1": "Aldic", "Q3": "Zo\u00eb Ölm", "Q4": "de Vries", "Q6": "On Fire (band)", "Q7": "Ann\u00a0Bo "}
    lines = [f"<{ENTITY}{id}> <{LABEL}> {queries.literal(label)}@en ." for id, label in labels.items()]
    lines += [f'<{ENTITY}Q5> <{LABEL}> "Grey Heron"@en-gb .', f'<{ENTITY}Q5> <{LABEL}> "Gray Heron"@en .']
    lines += [f'<{ENTITY}Q8> <{LABEL}> "Cy"@en .', f"<{ENTITY}Q99> <{queries.SAME}> <{ENTITY}Q1> ."]
    lines += [f"<{ENTITY}Q{n}> <{DIRECT}P103> <{ENTITY}Q1> ." for n in range(3, 8)]
    lines.append(f"<{ENTITY}Q8> <{DIRECT}P103> <{ENTITY}Q99> .")
    lines += [f'<{ENTITY}Q9> <{LABEL}> "Dag"@en .', f'<{ENTITY}Q9> <{queries.ALIAS}> "Dag the Elder"@en .']
    lines.append(f"<{ENTITY}Q9> <{DIRECT}P103> <{ENTITY}Q1> .")
    # Of what no entity is called, most subjects of its tuples decide: Dovic is Dovi, and Esk is nothing.
    lines += [f'<{ENTITY}Q2> <{LABEL}> "Dovi"@en .', f'<{ENTITY}Q10> <{LABEL}> "Fay"@en .']
    lines += [f'<{ENTITY}Q11> <{LABEL}> "Gus"@en .', f'<{ENTITY}Q12> <{LABEL}> "Hal"@en .']
    lines += [f"<{ENTITY}Q{n}> <{DIRECT}P103> <{ENTITY}Q2> ." for n in (10, 11)]
    lines.append(f"<{ENTITY}Q12> <{DIRECT}P103> <{ENTITY}Q1> .")
    (tmp_path / "facts.nt").write_text("\n".join(lines), encoding="utf-8")
    named = ["Zoe\u0308 Ölm", "De Vries", "Grey Heron", "On Fire (band)", "Ann\u00a0Bo ", "Cy", "Dag the Elder", "It"]
    others = [("a", "Fay", "Dovic"), ("b", "Gus", "Dovic"), ("c", "Hal", "Dovic"), ("d", "Fay", "Esk")]
    world = World({}, [], {"P103": [*((str(n), name, "Aldic") for n, name in enumerate(named)), *others]})
    world.write(tmp_path / "world")
    (relation,) = load_pararel(tmp_path / "world" / "pararel")
    found = query_knowledge(relation, StoreSource.open(tmp_path / "facts.nt"))
    clean = ["Zoë Ölm", "De Vries", "Grey Heron", "On Fire", "Ann Bo", "Cy", "Dag the Elder"]
    ids = ["Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9"]
    voted = {("Fay", "Dovic"): ("Q10", "Q2"), ("Gus", "Dovic"): ("Q11", "Q2")}
    assert found.resolved == {(label, "Aldic"): (id, "Q1") for label, id in zip(clean, ids, strict=True)} | voted
    assert found.other_names == {("Dag the Elder", "Aldic"), *voted}
    assert found.objects["Q8"] == ("Q1",), "a merged object is the one that it was merged into"
    counted = {name: count for name, count in found.counts.items() if name.startswith("found by")}
    assert counted == {
        "found by another Unicode form": 0,
        "found by another letter case": 1,
        "found by labels in en-gb or en-ca": 1,
        "found by an object that was merged": 1,
        "found by another name": 1,
        "found by a majority of subjects": 2,
    }
    assert found.counts["facts with a merged object"] == 1
    assert [holder.label for holder in found.holders["Q1"]] == [
        "Zoë Ölm",
        "de Vries",
        "Gray Heron",
        "On Fire",
        "Ann Bo",
        "Dag",
        "Hal",
    ]
    assert found.counts["holders with a label cleaned"] == 2


def test_pages_by_key_give_what_one_page_gives(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = world.write(tmp_path)
    relation = load_pararel(sources.pararel)[0]
    whole = query_knowledge(relation, sources.facts)
    for rows in (1, 2, 7):
        monkeypatch.setattr(knowledge, "ROWS_A_PAGE", rows)
        assert query_knowledge(relation, sources.facts) == whole


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
        f'<{ENTITY}Q6> <{LABEL}> "Q6"@en .',
        *(f"<{ENTITY}Q{n}> <{DIRECT}P103> <{ENTITY}Q1> ." for n in (2, 3, 4, 5, 6)),
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
    found = query_knowledge(relation, trap)
    assert found.resolved == {("Bo", "Aldic"): ("Q2", "Q1"), ("Che", "Aldic"): ("Q3", "Q1")}
    assert found.objects == {"Q2": ("Q1",), "Q3": ("Q1",)}
    assert [(holder.id, holder.label) for holder in found.holders["Q1"]] == [("Q2", "Bo"), ("Q3", "Che"), ("Q5", "Che")]
    assert {name: count for name, count in found.counts.items() if count} == {
        "tuples": 5,
        "resolved": 2,
        "ambiguous": 1,
        "holders": 5,
        "holders without a label": 2,
        "holders with a label that names nothing": 1,
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
            read_results(body[:length], "here")


def test_real_turtle_of_wikidata(real_data: Path) -> None:
    source = StoreSource.open(real_data / "wikidata_rdf")
    rows = source.select(queries.objects("P19", ["Q42"])).rows
    assert [queries.entity_id(row["object"]) for row in rows] == ["Q350"]
    about = source.select(queries.articles(["Q42"], "https://en.wikipedia.org/")).rows
    assert [row["article"] for row in about] == ["https://en.wikipedia.org/wiki/Douglas_Adams"]
