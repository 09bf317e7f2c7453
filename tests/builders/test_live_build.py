"""`counterfact build` against services on loopback: named on the command line, replayed elsewhere, planned."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import counterfact.builders.sources.options
from counterfact.builders.request_estimate import Assumptions, estimate_requests
from counterfact.builders.sources import wikipedia
from counterfact.builders.sources.options import SourceOptions
from counterfact.builders.sources.pararel import load_pararel
from counterfact.builders.sources.pararel_download import UPSTREAM
from counterfact.builders.sources.surroundings import STEPS_UP
from counterfact.builders.sources.wikipedia import wiki_of
from counterfact.cli.main import main
from counterfact.core.errors import BadInput
from tests.builders.test_build_over_http import Place, make, services, without_sources
from tests.support.fast_client import CONTACT
from tests.support.made_up_world import small_world
from tests.support.sparql_server import query_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make(tmp_path_factory.mktemp("place"), 1)


def run(monkeypatch: pytest.MonkeyPatch, *given: object) -> int:
    """Run the command line and return its exit code."""
    monkeypatch.setattr("sys.argv", ["counterfact", *map(str, given)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_live_build_and_its_replay_elsewhere(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with services(place) as there:
        named = ["build", "--sparql", there.sparql, "--pararel", there.pararel, "--articles", there.wiki]
        named += ["--prompts", str(place.folder / "world/generation"), "--context", "none"]
        packed = tmp_path / "packed.sqlite"
        live = [*named, "--contact", CONTACT, "--pause", "0", "--cache", tmp_path / "a.sqlite", "--pack", packed]
        assert run(monkeypatch, *live, "--out", tmp_path / "live") == 0
        assert "new, 0 from" in capsys.readouterr().out
        asked = len(there.asked)
        assert run(monkeypatch, *live, "--out", tmp_path / "again") == 0
        assert ": 0 new" in capsys.readouterr().out
        assert len(there.asked) == asked
        assert run(monkeypatch, *named, "--out", tmp_path / "none", "--cache", tmp_path / "b.sqlite") == 2
        assert "--contact" in capsys.readouterr().err
        assert len(there.asked) == asked
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "elsewhere"))
    assert run(monkeypatch, *named, "--replay", "--cache", packed, "--out", tmp_path / "replayed") == 0
    whole = without_sources(tmp_path / "live")
    assert whole["build.json"]["counts"]["records"] > 20
    assert without_sources(tmp_path / "again") == without_sources(tmp_path / "replayed") == whole


def in_french(folder: Path) -> Place:
    """A world with French labels, templates and prompts, in the folders of that language."""
    world = small_world(("P103",))
    world.patterns = ("[X] parle [Y].", "[X] rêve en [Y].", "À la maison, [X] chante en [Y].")
    world.generation = ("Au marché, {} discute en",)
    world.tag = "fr"
    sources = world.write(folder / "world")
    for place in (sources.pararel, sources.generation):
        shutil.move(place, folder / "moved")
        shutil.move(folder / "moved", place / "fr")
    return Place(folder, sources, {})


def test_the_language_chooses_the_wikipedia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = in_french(tmp_path)
    with services(place) as there:
        host = there.wiki.removesuffix("/w/api.php")
        monkeypatch.setattr(wikipedia, "WIKIPEDIA", host + "/{}/w/api.php")
        monkeypatch.setattr(counterfact.builders.sources.options, "WIKIDATA", host + "/wikidata/w/api.php")
        named = ["build", "--sparql", there.sparql, "--pararel", place.sources.pararel, "--language", "fr"]
        named += ["--prompts", place.sources.generation, "--contact", CONTACT, "--pause", 0]
        named += ["--cache", tmp_path / "a.sqlite", "--out", tmp_path / "out"]
        assert run(monkeypatch, *named) == 2
        assert "no sentences in fr" in capsys.readouterr().err
        assert not there.asked
        assert run(monkeypatch, *named, "--context", "none") == 0
        asked = there.logs[1].asked
    paths = Counter(visit.path for visit in asked)
    assert set(paths) == {"/fr/w/api.php", "/wikidata/w/api.php"}
    assert all("sitefilter=frwiki" in visit.body for visit in asked if "wikidata" in visit.path)
    assert not any('"en"' in query_of(visit) for visit in there.logs[0].asked)
    built = without_sources(tmp_path / "out")
    assert built["build.json"]["counts"]["records"] > 20 and built["build.json"]["counts"]["reference_texts"] > 20
    records = map(json.loads, built["records.jsonl"].splitlines())
    prompts = {record["requested_rewrite"]["prompt"] for record in records}
    assert prompts == {"{} parle", "{} rêve en", "À la maison, {} chante en"}


@pytest.mark.parametrize(
    ("language", "host", "name"),
    [
        ("en", "en", "enwiki"),
        ("fr", "fr", "frwiki"),
        ("zh-hant", "zh", "zhwiki"),
        ("nb", "no", "nowiki"),
        ("be-tarask", "be-tarask", "be_x_oldwiki"),
        ("nds-nl", "nds-nl", "nds_nlwiki"),
    ],
)
def test_wikipedias_by_the_codes_of_labels(language: str, host: str, name: str) -> None:
    assert wiki_of(language) == (f"https://{host}.wikipedia.org/w/api.php", name)


def test_names_of_services_and_what_follows_from_them() -> None:
    assert SourceOptions(sparql="wdqs").live and SourceOptions(sparql="https://a/sparql").live
    assert not SourceOptions(sparql="facts.nt").live and not SourceOptions().live
    assert SourceOptions(sparql="qlever").fetches_pararel and SourceOptions(pararel=UPSTREAM).fetches_pararel
    assert not SourceOptions(sparql="wdqs", pararel="folder").fetches_pararel


def test_replay_needs_to_know_whose_answers(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="whose answers"):
        SourceOptions(replay=True).open()
    with pytest.raises(BadInput, match="no cache of responses"):
        SourceOptions(sparql="wdqs", replay=True, cache=tmp_path / "a.sqlite").open()


def test_the_contact_may_come_from_the_environment(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COUNTERFACT_CONTACT", raising=False)
    named = SourceOptions(sparql="wdqs", pararel=str(place.sources.pararel), cache=tmp_path / "a.sqlite")
    with pytest.raises(BadInput, match="--contact"):
        named.open()
    monkeypatch.setenv("COUNTERFACT_CONTACT", CONTACT)
    assert named.open().client is not None


def test_packing_a_build_without_servers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "build", "--out", tmp_path / "out", "--pack", tmp_path / "p.sqlite") == 2
    assert "nothing of this build comes from a server" in capsys.readouterr().err


def test_the_plan_counts_what_a_build_asks(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relations = load_pararel(place.sources.pararel)
    assumed = Assumptions(subjects_an_object=9, with_article=1.0)
    costs = {cost.kind: cost for cost in estimate_requests(relations, 6, 1.0, 82, assumed)}
    with services(place) as there:
        from tests.support.fast_client import fast_client

        there.build(place, fast_client(tmp_path / "a.sqlite"), tmp_path / "out")
        asked = [query_of(visit.asked).split("WHERE")[0].partition("SELECT")[2] for visit in there.logs[0].visits]
        kinds = {
            "all objects of the subjects": " DISTINCT ?subject ?object ?target ",
            "how many subjects an object has": " ?object (COUNT(?subject) AS ?subjects) ",
            "pages of subjects": " ?object ?subject ?own ?mul ",
        }
        assert {kind: asked.count(columns) for kind, columns in kinds.items()} == {
            kind: costs[kind].requests for kind in kinds
        }
        assert sum("?subjectLabel" in columns for columns in asked) >= costs["which entities the labels mean"].requests
        assert sum("?above" in columns for columns in asked) <= 2 * STEPS_UP
        assert len(there.logs[2].visits) == costs["files of ParaRel"].requests
        assert (
            len(there.logs[1].visits) >= costs["titles of articles"].requests + costs["openings of articles"].requests
        )
    assert run(monkeypatch, "build", "--plan", "--pararel", place.sources.pararel, "--sparql", "wdqs") == 0
    assert "pages of subjects" in capsys.readouterr().out
