"""From runs to a board: equal runs are one, runs that lie are left out, and what is not alike is ranked apart."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfact.evaluation.store import Run
from counterfact.leaderboard.board import board_of
from counterfact.leaderboard.entries import load_entries
from counterfact.leaderboard.page import write_site
from counterfact.leaderboard.submission import RECORDS, write_submission
from tests.support.evaluating import counterfact, run_fake, run_identity, zsre


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    data, questions = counterfact(root / "data"), zsre(root / "q.json")
    for run in (run_fake(data, root / "r"), run_identity(data, root / "r"), run_fake(questions, root / "r")):
        submitted(run, root / "s")
    return root


def submitted(run: Run, root: Path) -> Path:
    return write_submission(run, root / f"{run.data['dataset']['kind']}-{run.editor}")[0]


def contents(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def build(folder: Path, out: Path) -> dict[str, bytes]:
    found, left_out = load_entries(folder)
    write_site(found, out, left_out)
    return contents(out)


def test_equal_runs_in_two_places_are_one(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "s", tmp_path / "both" / "s")
    shutil.copytree(results / "s", tmp_path / "both" / "again")
    assert build(tmp_path / "both", tmp_path / "two") == build(results / "s", tmp_path / "one")


LIES: dict[str, tuple[str, Callable[[dict[str, Any], list[dict[str, Any]]], object]]] = {
    "a better S": ("aggregate-differs", lambda run, lines: run["metrics"]["S"].update(value=99.0)),
    "a better ES": ("aggregate-differs", lambda run, lines: run["metrics"]["ES"].update(value=99.0)),
    "a request without a prompt": ("schema", lambda run, lines: lines[0]["requested_rewrite"].pop("prompt")),
    "a relation that is a list": ("schema", lambda run, lines: lines[0]["requested_rewrite"].update(relation_id=[])),
    "no counts": ("schema", lambda run, lines: run["n"].pop("asked")),
    "records of nobody": ("foreign-record", lambda run, lines: lines[0].update(case_id=99)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_run_that_lies_is_left_out_and_the_others_stay(results: Path, tmp_path: Path, name: str) -> None:
    code, change = LIES[name]
    shutil.copytree(results / "s", tmp_path / "s")
    folder = tmp_path / "s" / "counterfact-fake"
    run = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in gzip.decompress((folder / RECORDS).read_bytes()).splitlines()]
    change(run, lines)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / RECORDS).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    found, left_out = load_entries(tmp_path / "s")
    assert len(found) == 2
    assert list(left_out) == ["counterfact-fake"] and left_out["counterfact-fake"].startswith(code)


def test_runs_on_the_same_records_share_a_table(results: Path, tmp_path: Path) -> None:
    found, _ = load_entries(results / "s")
    build(results / "s", tmp_path / "site")
    assert len(list((tmp_path / "site" / "records").iterdir())) == len({entry.records for entry in found}) == 2


def change_definition(run: dict[str, Any]) -> None:
    run["metrics"]["GE"]["definition"] = 2


def change_version(run: dict[str, Any]) -> None:
    run["dataset"]["version"] = "2"


def change_protocol(run: dict[str, Any]) -> None:
    run["protocol"]["schedule"]["edits_at_once"] = 100


@pytest.mark.parametrize("change", [change_definition, change_version, change_protocol])
def test_what_is_not_alike_is_not_ranked_together(
    results: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    shutil.copytree(results / "s", tmp_path / "s")
    path = tmp_path / "s" / "counterfact-fake" / "run.json"
    before = [len([row for row in group["rows"] if row["id"]]) for group in board_of(load_entries(tmp_path / "s")[0])]
    run = json.loads(path.read_text())
    change(run)
    path.write_text(json.dumps(run))
    after = [len([row for row in group["rows"] if row["id"]]) for group in board_of(load_entries(tmp_path / "s")[0])]
    assert sorted(before)[-2:] == [1, 2] and sorted(after)[-3:] == [1, 1, 1]
