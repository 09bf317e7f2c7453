"""The board that ships with the repository is one that the check takes, and holds no text of others' data sets."""

import gzip
import json
from pathlib import Path

import pytest

from counterfact.core.places import data_folder
from counterfact.leaderboard.check import check
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


def lines_of(folder: Path) -> list[dict[str, dict[str, object]]]:
    return [json.loads(line) for line in gzip.decompress((folder / RECORDS).read_bytes()).decode().splitlines()]
