"""Sequential runs in tables: two numbers for each, orders together, unlike schedules never paired or ranked as one."""

from dataclasses import replace
from pathlib import Path

import pytest

from counterfact.core.errors import BadInput
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.sequential_rows import condition_cells
from counterfact.evaluation.store import Run
from counterfact.evaluation.summary import compare, render, summary_tables
from counterfact.leaderboard.check import check
from counterfact.leaderboard.ranking import rank
from counterfact.leaderboard.references import references_of
from counterfact.leaderboard.submission import read_submission, write_submission
from counterfact.statistics.intervals import mean_interval
from tests.evaluation.test_sequential import PAIRS, one_after_another, remembering, ruinous
from tests.support.evaluating import counterfact, fake_spec, run_fake, run_identity


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Three orders, an editor that ruins the model, one with a memory, and a run that is not sequential."""
    folder = tmp_path_factory.mktemp("tables")
    data, results = counterfact(folder / "data"), folder / "results"
    orders = {f"order {k}": one_after_another(data, results, schedule=replace(PAIRS, order=k)) for k in range(3)}
    return {
        **orders,
        "later": one_after_another(data, results, schedule=replace(PAIRS, measure_after=(3,))),
        "single": run_fake(data, results, generate=False),
        "memory": one_after_another(data, results, remembering()),
        "memory at once": run_fake(data, results, remembering(), generate=False, schedule=Schedule(1)),
        "pairs": run_identity(data, results, generate=False, schedule=Schedule(2)),
        "ruinous": one_after_another(data, folder / "other", fake_spec(ruinous)),
    }


def test_a_table_holds_what_is_kept_and_what_was_there_at_first(runs: dict[str, Run]) -> None:
    table, condition = summary_tables([runs["order 0"]])
    unedited, final, immediate = table.rows
    assert table.title.endswith("2 edits at once, one group after another") and unedited.label.endswith("(unedited)")
    assert (final.label, immediate.label) == ("fake, final", "fake, immediate")
    assert final.cells["EM"].value == runs["order 0"].data["metrics"]["EM"]["value"]
    at_first = runs["order 0"].data["sequence"]["immediate"]["metrics"]
    assert immediate.cells["NM"].value == at_first["NM"]["value"] != final.cells["NM"].value
    assert [row.cells["edits"].value for row in condition.rows] == [2, 4, 7]
    assert [row.n for row in condition.rows] == ["2", "4", "6/7"]
    assert "| 2 |" in render([condition], "markdown")


def test_tables_say_how_many_edits_share_a_change(runs: dict[str, Run]) -> None:
    titles = [summary_tables([runs[name]])[0].title for name in ("single", "pairs")]
    assert "at once" not in titles[0] and titles[1] == f"{titles[0]}, 2 edits at once"


def test_orders_stand_together_with_an_interval_of_their_own(runs: dict[str, Run]) -> None:
    orders = [runs[f"order {k}"] for k in range(3)]
    table, condition = summary_tables(orders)
    labels = [row.label for row in table.rows[1:]]
    assert labels == ["fake, final", "fake, final, over orders", "fake, immediate", "fake, immediate, over orders"]
    values = [run.data["sequence"]["immediate"]["metrics"]["NM"]["value"] for run in orders]
    wanted, found = mean_interval(values, "student"), table.rows[4].cells["NM"]
    assert (found.value, found.low, found.high) == (wanted.value, wanted.low, wanted.high)
    assert table.rows[4].n == "3 orders" and len(condition.rows) == 9


def test_a_collapse_is_marked_where_it_came(runs: dict[str, Run]) -> None:
    table, condition = summary_tables([runs["ruinous"]])
    assert table.rows[1].label == "fake, final, collapsed after 4 edits" and table.rows[1].n == "4/7"
    assert [row.cells["edits"].mark for row in condition.rows] == ["", " collapsed"]
    found = condition_cells(runs["ruinous"].data["sequence"]["checkpoints"][1])
    assert found["perplexity"].value is None and found["norm"].value > 1e6


def test_unlike_schedules_are_not_paired(runs: dict[str, Run]) -> None:
    assert compare([runs["later"]], runs["order 0"]).rows[0].n == "6", "when else it was measured changes nothing"
    for other in ("single", "order 1"):
        with pytest.raises(BadInput, match=r"unlike schedules: .* one group after another"):
            compare([runs[other]], runs["order 0"])


def test_unlike_schedules_are_not_ranked_together(runs: dict[str, Run]) -> None:
    mine = ("order 0", "later", "order 1", "single", "memory", "memory at once")
    groups = [[run["editor"]["name"] for run in ranking.runs] for ranking in rank(runs[name].data for name in mine)]
    assert sorted(map(sorted, groups)) == [["fake"], ["fake", "fake", "remembering"], ["fake", "remembering"]]


def test_a_sequential_run_can_be_submitted(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["order 0"]
    folder, _ = write_submission(run, tmp_path / "submission")
    submission = read_submission(folder)
    assert "sequence" not in submission.run and submission.run["protocol"]["schedule"]["sequential"] is True
    assert check(folder, references_of([run])).accepted
