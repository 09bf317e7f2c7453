"""The board that ships with the repository is one that the check takes, and holds no text of others' data sets."""

import gzip
import json
from pathlib import Path

import pytest

from counterfact import build
from counterfact.contracts.datasets import load_dataset
from counterfact.core.places import data_folder
from counterfact.core.runs import RUN
from counterfact.leaderboard import board
from counterfact.leaderboard.board import board_of
from counterfact.leaderboard.check import check
from counterfact.leaderboard.entries import load_entries
from counterfact.leaderboard.exports import table_of
from counterfact.leaderboard.references import load_references
from counterfact.leaderboard.submission import RECORDS, find_candidates

BOARD = data_folder() / "board"
FOLDERS = [folder.relative_to(BOARD).as_posix() for folder in find_candidates(BOARD).folders]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_submission_is_taken(name: str) -> None:
    verdict = check(BOARD / name, load_references(BOARD / "references.json"))
    assert verdict.accepted, [str(reason) for reason in verdict.reasons]
    assert not verdict.missing


@pytest.mark.parametrize("name", [name for name in FOLDERS if "genuine" in name])
def test_genuine_records_are_there_by_their_numbers_alone(name: str) -> None:
    for line in lines_of(BOARD / name):
        assert set(line["requested_rewrite"]) == {"withheld", "relation_id"}
        assert not any(line[side].get("text") for side in ("post", "pre"))


def test_rows_on_our_own_records_are_of_those_that_are_built_now(tmp_path: Path) -> None:
    build(tmp_path / "built")
    now = load_dataset(tmp_path / "built", 100).content_hash
    found = {name: json.loads((BOARD / name / RUN).read_text())["dataset"] for name in FOLDERS if "embedded" in name}
    assert found
    for name, dataset in found.items():
        assert dataset["content_hash"] == now, f"{name} is of {dataset['name']}@{dataset['version']}: evaluate again"


def test_places_are_shared_and_controls_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, _ = load_entries(BOARD / "smollm2-genuine")
    group = board_of(entries)[0]
    ours = {row["label"]: row for row in group["rows"] if not row["published"]}
    places = {label: (row["rank"], row["tied"]) for label, row in ours.items()}
    first = {label for label, place in places.items() if place == (1, True)}
    assert {"ROME", "r-ROME", "p-ROME", "MEMIT"} <= first and places["FT"] == (len(first) + 1, False)
    assert places["No edit"] == places["Unedited model"] == (None, False)
    # The identity spares the most, and is still not the best: its column's mark is an editor's.
    best = max(ours.values(), key=lambda row: float(row["cells"]["NS"][0]))
    assert best["control"] and not best["marks"] and any(row["marks"].get("NS") == "best" for row in ours.values())
    assert ours["Unedited model"]["cells"]["S"] == pytest.approx(ours["No edit"]["cells"]["S"], abs=1e-6)
    assert {row.label for row in table_of(group).rows[: len(first)]} == {f"1=. {label}" for label in first}
    monkeypatch.setattr(board, "LEAST", 101)
    few = board_of(entries)[0]
    assert not few["ranked"] and all(row["rank"] is None and not row["marks"] for row in few["rows"])


def lines_of(folder: Path) -> list[dict[str, dict[str, object]]]:
    return [json.loads(line) for line in gzip.decompress((folder / RECORDS).read_bytes()).decode().splitlines()]
