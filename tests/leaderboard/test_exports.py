"""The board in other programs' forms: read back, and held against what those programs ask for."""

import csv
import importlib.util
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterfact.leaderboard.board import board_of
from counterfact.leaderboard.entries import Entry, load_entries
from counterfact.leaderboard.every_eval_ever import every_eval_ever, path_of
from counterfact.leaderboard.exports import long_rows, write_exports
from tests.support.evaluating import counterfact, run_fake, run_identity, zsre


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    root = tmp_path_factory.mktemp("runs")
    data = counterfact(root / "data")
    run_fake(data, root / "r")
    run_identity(data, root / "r")
    run_fake(zsre(root / "q.json"), root / "r")
    return load_entries(root / "r")[0]


@pytest.fixture(scope="module")
def out(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_exports(board_of(entries), entries, folder)
    return folder


def test_tables_hold_every_score(entries: list[Entry], out: Path) -> None:
    import pyarrow.parquet as pq

    rows = long_rows(board_of(entries))
    assert pq.read_table(out / "board.parquet").to_pylist() == rows
    with (out / "board.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["metric"] for row in read] == [row["metric"] for row in rows]
    assert [float(row["value"]) for row in read if row["value"]] == [
        row["value"] for row in rows if row["value"] is not None
    ]


def test_text_tables_have_a_row_for_every_run_and_the_papers(entries: list[Entry], out: Path) -> None:
    markdown, latex = (out / "board.md").read_text(), (out / "board.tex").read_text()
    for text in (markdown, latex):
        assert "paper: ROME" in text and "Unedited model" in text
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == len(board_of(entries))
    assert "| fake |" in markdown and "| No edit |" in markdown and "1. " not in markdown  # six records rank nothing


def test_the_card_of_a_space_says_what_it_must(out: Path) -> None:
    _, header, _ = (out / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["sdk"] == "static" and card["app_file"] == "index.html"
    assert {card["colorFrom"], card["colorTo"]} <= {
        "red",
        "yellow",
        "green",
        "blue",
        "indigo",
        "purple",
        "pink",
        "gray",
    }


# What every_eval_ever 0.3.0 asks of an aggregate file, read from its eval.schema.json and its validator.
RELATIONSHIPS = {"first_party", "third_party", "collaborative", "other"}
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json")
TOP = {"schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library"}
OPTIONAL = {"evaluation_timestamp", "detailed_evaluation_results"}


def texts_only(value: dict[str, Any]) -> bool:
    return all(isinstance(one, str) for one in value.values())


def assert_valid(path: str, data: dict[str, Any]) -> None:
    parts = path.split("/")
    assert len(parts) == 5 and parts[0] == "data" and UUID4.fullmatch(parts[4])
    assert TOP | {"evaluation_results"} <= set(data) <= TOP | {"evaluation_results"} | OPTIONAL
    assert texts_only({name: data[name] for name in ("schema_version", "evaluation_id", "retrieved_timestamp")})
    float(data["retrieved_timestamp"])
    source = data["source_metadata"]
    assert source["source_type"] in {"documentation", "evaluation_run"}
    assert isinstance(source["source_organization_name"], str) and source["evaluator_relationship"] in RELATIONSHIPS
    assert texts_only({name: data["eval_library"][name] for name in ("name", "version")})
    assert texts_only(data["eval_library"]["additional_details"])
    model = data["model_info"]
    assert model["id"].split("/") == parts[2:4] and isinstance(model["name"], str)
    assert texts_only(model["additional_details"])
    assert model["additional_details"]["deployment_type"] in {"self_deployed", "externally_managed", "unknown"}
    assert model["additional_details"]["model_availability"] in {"open_weights", "closed_weights", "unknown"}
    assert data["evaluation_results"]
    for result in data["evaluation_results"]:
        assert_valid_result(result)


def assert_valid_result(result: dict[str, Any]) -> None:
    assert isinstance(result["evaluation_name"], str) and isinstance(result["source_data"]["dataset_name"], str)
    assert result["source_data"]["source_type"] == "other" and texts_only(result["source_data"]["additional_details"])
    metric, details = result["metric_config"], result["score_details"]
    assert isinstance(metric["lower_is_better"], bool) and metric["score_type"] == "continuous"
    low, high = (float(metric[name]) for name in ("min_score", "max_score"))  # numbers, or the texts for infinity
    assert all(isinstance(metric[name], float) or "Infinity" in metric[name] for name in ("min_score", "max_score"))
    assert isinstance(details["score"], float) and low <= details["score"] <= high
    interval = details["uncertainty"]["confidence_interval"]
    assert isinstance(interval["lower"], float) and isinstance(interval["upper"], float)
    assert 0 <= interval["confidence_level"] <= 1 and isinstance(details["uncertainty"]["num_samples"], int)
    assert set(result["generation_config"]) == {"additional_details"}
    assert texts_only(result["generation_config"]["additional_details"])


def read_all(out: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(out / "every_eval_ever.zip") as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def test_every_eval_ever(entries: list[Entry], out: Path) -> None:
    found = read_all(out)
    assert len(found) == len(entries)
    for path, data in found.items():
        assert_valid(path, data)


def test_every_eval_ever_says_what_the_run_says(entries: list[Entry]) -> None:
    run, one = entries[0].run, every_eval_ever(entries[0].run, entries[0].id)
    scores = {result["metric_config"]["metric_name"]: result["score_details"] for result in one["evaluation_results"]}
    there = {name: entry for name, entry in run["metrics"].items() if entry["value"] is not None}
    assert {name: details["score"] for name, details in scores.items()} == {n: e["value"] for n, e in there.items()}
    assert path_of(run, entries[0].id).startswith("data/counterfact-toolkit/")


def test_the_public_validator_accepts_it(out: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("every_eval_ever") is None:
        pytest.skip("needs every-eval-ever: Python 3.12 and `pip install every-eval-ever`")
    from every_eval_ever.validator.validation_core import validate_file

    with zipfile.ZipFile(out / "every_eval_ever.zip") as archive:
        archive.extractall(tmp_path)
        for name in archive.namelist():
            report = validate_file(tmp_path / name, repo_path=name, run_semantic_checks=True)
            assert report.valid, report.errors
            assert not report.warnings
