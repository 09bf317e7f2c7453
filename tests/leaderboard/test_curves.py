"""Pictures of many edits: which are drawn of which runs, and that what they show is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterfact.core.errors import BadInput
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import Run
from counterfact.leaderboard.curves import BESIDE, collapse, draw_curves, retention, scaling
from tests.evaluation.test_sequential import one_after_another, remembering, ruinous
from tests.support.evaluating import counterfact, fake_spec, run_identity


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("curves")


@pytest.fixture(scope="module")
def sequential(folder: Path) -> list[Run]:
    data = counterfact(folder / "data")
    return [one_after_another(data, folder / "a", spec) for spec in (fake_spec(ruinous), remembering())]


@pytest.fixture(scope="module")
def mass(folder: Path) -> list[Run]:
    data = counterfact(folder / "more", bad=())
    return [run_identity(data, folder / "b", generate=False, schedule=Schedule(size)) for size in (1, 2, 20)]


def points(axes: Any) -> list[list[tuple[float, float]]]:
    """The points of each line of a panel that has a label."""
    return [list(zip(*bars.lines[0].get_data(), strict=True)) for bars in axes.containers]


def test_retention_shows_every_checkpoint_and_the_collapse(sequential: list[Run]) -> None:
    figure = retention(sequential, "title")
    everything, first = figure.axes
    fell, kept = ([(each["edits"], each["metrics"]["S"]["value"]) for each in run.data["sequence"]["checkpoints"]]
                  for run in sequential)  # fmt: skip
    there = [[point for point in line if point[1] is not None] for line in (fell, kept)]
    assert points(everything) == [line for line in there if line]
    assert [len(line) for line in points(first)] == [len(line) for line in there if line]
    assert [tick.get_text() for tick in everything.get_xticklabels()] == ["2", "4", "7"]
    assert "first 2 edited" in first.get_title(loc="left")


def in_another_order(run: Run) -> Run:
    protocol = run.data["protocol"]
    return replace(run, data={**run.data, "protocol": {**protocol, "schedule": {**protocol["schedule"], "order": 1}}})


def test_other_orders_are_thin_lines_of_the_same_editor(sequential: list[Run], tmp_path: Path) -> None:
    runs = [in_another_order(sequential[1]), *sequential]
    alone, both = (retention(some, "title").axes[0] for some in (sequential, runs))
    assert points(both) == points(alone)[::-1], "editors in the order given, each by its first order"
    thin = [line for line in both.lines if line.get_linewidth() < 1 and len(line.get_xdata()) > 1]
    assert [list(zip(*line.get_data(), strict=True)) for line in thin] == [points(both)[0]]
    assert "thin: other orders" in both.get_title(loc="left") and "thin" not in alone.get_title(loc="left")
    assert len(collapse(runs, "title").axes[0].get_yticklabels()) == 2
    assert len(draw_curves(runs, tmp_path)) == 2, "orders share a picture"


def test_what_was_edited_at_once_is_an_open_mark_beside_the_line(sequential: list[Run], mass: list[Run]) -> None:
    remembered = sequential[1]
    at_once = [*mass, replace(mass[-1], data={**mass[-1].data, "editor": remembered.data["editor"]})]
    figure = retention(sequential, "title", at_once)
    panel, first = figure.axes
    value = mass[-1].data["metrics"]["S"]["value"]
    opened = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert [list(zip(*line.get_data(), strict=True)) for line in opened] == [[(7 * BESIDE, value)]] * 2, (
        "of one group, all of it"
    )
    assert opened[1].get_color() == next(
        bars[0].get_color() for bars in panel.containers if bars.get_label() == "remembering"
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fake", "remembering", "identity, at once"]
    assert "open: at once" in panel.get_title(loc="left")
    assert not [line for line in first.lines if line.get_markerfacecolor() == "white"]


def test_the_strip_marks_a_collapse(sequential: list[Run]) -> None:
    [axes] = collapse(sequential, "title").axes
    said = [text.get_text() for text in axes.texts]
    assert len(said) == 5 and said[1] == "– †" and not any("†" in text for text in (said[0], *said[2:]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fake", "remembering"]


def test_scaling_shows_each_number_of_edits_with_its_interval(mass: list[Run]) -> None:
    axes = scaling(mass, "title").axes
    assert [panel.get_title(loc="left") for panel in axes] == ["S", "ES", "PS", "NS"]
    [line] = points(axes[3])
    assert line == [(size, mass[0].data["metrics"]["NS"]["value"]) for size in (1, 2, 7)]


def test_more_editors_than_colours_are_told_apart(mass: list[Run]) -> None:
    editor = mass[0].data["editor"]
    runs = [
        replace(mass[0], data={**mass[0].data, "editor": {**editor, "given": {"place": place}}}) for place in range(9)
    ]
    lines = [bars.lines[0] for bars in scaling(runs, "title").axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(runs)


def test_equal_runs_give_equal_pictures(sequential: list[Run], mass: list[Run], tmp_path: Path) -> None:
    first, again = (draw_curves([*sequential, *mass], tmp_path / name) for name in ("a", "b"))
    assert sorted(path.name.rpartition("-")[2] for path in first) == ["collapse.png", "retention.png", "scaling.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    with pytest.raises(BadInput, match="nothing to draw"):
        draw_curves(mass[:1], tmp_path / "c")
