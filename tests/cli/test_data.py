"""The commands about data sets: what they print and write, and what they refuse."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from counterfact.cli._common import console
from counterfact.cli.main import app
from counterfact.core.errors import BadInput


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    run("build", "--out", out, "--relation", "P103", "--relation", "P36")
    return out


def test_every_option_of_a_build_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("The ferry leaves the northern pier at noon.\nNobody swept the stairs today.\n")
    counts = ["--paraphrases", 1, "--neighbors", 3, "--attributes", 2, "--generations", 4]
    variants = ["--non-conflicting", "--language", "en", "--sitelinks", 0]
    sources = ["--context", "texts", "--texts", tmp_path / "texts.txt", "--templates", "data/pararel"]
    run("build", "--out", tmp_path / "out", "--relation", "P103", *counts, *variants, *sources)
    meta = json.loads((tmp_path / "out/build.json").read_text(encoding="utf-8"))
    wanted = {
        "paraphrase_prompts": 1,
        "neighborhood_prompts": 3,
        "attribute_prompts": 2,
        "generation_prompts": 4,
        "non_conflicting": True,
        "paraphrase_context": "texts",
        "language": "en",
        "fewest_sitelinks": 0,
    }
    assert meta["settings"].items() >= wanted.items()
    assert meta["sources"]["texts"] and meta["sources"]["templates"]


def test_a_threshold_that_the_source_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="wikibase:sitelinks"):
        run("build", "--out", tmp_path / "out", "--relation", "P103", "--sitelinks", 5)


def test_stats_show_the_paper_beside(data: Path) -> None:
    # Whole also on a terminal of eighty columns.
    assert console.width == 80
    assert "21,919" in run("stats", data)
    assert "21,919" not in run("stats", data, "--no-paper")


def test_compare_tells_data_sets_from_runs(data: Path, tmp_path: Path) -> None:
    found = json.loads(run("compare", data, data / "records.jsonl", "--json"))
    rows = {row["item"]: row for row in found["overlap"]}
    assert all(row["first"] == row["second"] == row["both"] for row in rows.values())
    assert rows["relations"]["both"] == 2 and found["recovery"]["total"]["missing"] == {}
    assert "100.0%" in run("compare", data, data / "records.jsonl")
    with pytest.raises(BadInput, match="--baseline RUN"):
        run("compare", data, data, data)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadInput, match="is a run"):
        run("compare", data, tmp_path)


def test_audit_prints_and_writes_a_page(data: Path, tmp_path: Path) -> None:
    assert "malformed prompt" in run("audit", data, "--page", tmp_path / "audit.html")
    assert "<article" in (tmp_path / "audit.html").read_text(encoding="utf-8")
    found = json.loads(run("audit", data, "--page", tmp_path / "audit.html", "--json"))
    assert found["found"]["duplicate record"] == {"found": 0, "records": 0}


def test_snapshot_of_files_and_its_refusals(tmp_path: Path) -> None:
    out = tmp_path / "slice.nt"
    said = run("snapshot", out, "--sparql", "data/wikidata/facts.nt", "--relation", "P103")
    assert f"{len(out.read_text(encoding='utf-8').splitlines()):,} statements" in " ".join(said.split())
    for arguments, reason in (
        (["--sparql", "data/wikidata/facts.nt", "--dump", "x.nt"], "one of --sparql"),
        ([], "one of --sparql"),
        (["--sparql", "data/wikidata/facts.nt", "--relation", "P99999"], "P99999"),
        (["--dump", "no-such-dump.nt"], "no dump at"),
    ):
        with pytest.raises(BadInput, match=reason):
            run("snapshot", out, *arguments)
    with pytest.raises(BadInput, match="ends in"):
        run("snapshot", tmp_path / "slice.csv", "--sparql", "data/wikidata/facts.nt")
