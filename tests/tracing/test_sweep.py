"""`counterfact sweep`: one run for each layer and position, a table, a figure; what cannot be swept is refused."""

import json
from functools import partial
from pathlib import Path

import pytest

from counterfact.cli.sweep import parse_layers
from counterfact.core.errors import BadInput
from tests.support import Command
from tests.support.evaluating import counterfact
from tests.support.models import tiny_folder


@pytest.fixture
def sweep(command: Command, tmp_path: Path) -> Command:
    """Run `counterfact sweep` on two records and a tiny model."""
    counterfact(tmp_path / "data")
    given = ["--dataset", tmp_path / "data", "--model", tiny_folder("gpt2"), "--out", tmp_path, "--limit", 2]
    return partial(command, "sweep", *given)


def test_every_layer_and_position_is_scored_and_drawn(sweep: Command, tmp_path: Path) -> None:
    places = ["--position", "subject_last", "--position", "last"]
    quick = ["--set", "steps=2", "--set", "covariance=false", "--set", "contexts_per_length=0"]
    code, out, err = sweep("--layers", "0,2", *places, *quick)
    assert code == 0, err
    assert "subject_last" in out
    [file] = tmp_path.glob("sweep/*/sweep.json")
    points = json.loads(file.read_text())["points"]
    assert {(point["layer"], point["position"]) for point in points} == {
        (layer, place) for layer in (0, 2) for place in ("subject_last", "last")
    }
    assert all(point["n"] == 2 for point in points)
    assert len(points) == 16
    assert {path.suffix for path in file.parent.iterdir()} == {".json", ".pdf", ".png"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "9"], "expected layers from 0 to 2"),
        (["--layers", "2-1"], "expected layers as"),
        (["--position", "middle"], "expected positions among"),
        (["--editor", "identity"], "has no setting `layer`"),
        (["--editor", "ft", "--position", "last"], "has no setting `position`"),
    ],
)
def test_what_cannot_be_swept_is_refused(sweep: Command, arguments: list[str], said: str) -> None:
    code, _, err = sweep(*arguments)
    assert code == 2
    assert said in err


def test_layers_are_read_as_ranges() -> None:
    assert parse_layers("5, 0-2", 6) == [0, 1, 2, 5]
    with pytest.raises(BadInput):
        parse_layers("", 6)
