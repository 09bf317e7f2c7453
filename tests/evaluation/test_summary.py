"""Tables, differences, the paper's rows, export to the reference's files, and the verdict of `reproduce`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset
from counterfact.core.errors import BadInput
from counterfact.evaluation.export import export
from counterfact.evaluation.paper import BASES, Edits, PaperRow, Published, paper_rows
from counterfact.evaluation.reproduce import records_needed, reproduce, verdict, verdict_table
from counterfact.evaluation.store import Run, find_runs
from counterfact.evaluation.summary import compare, paired, render, summary_tables
from counterfact.evaluation.tables import Cell, Row, Table, to_json, to_latex, to_markdown
from counterfact.evaluation.task import Options
from counterfact.lm.planning.batch_plan import Plan
from counterfact.metrics.score import harmonic_mean
from tests.support import ROOT
from tests.support.evaluating import LENGTH, counterfact
from tests.support.models import tiny_lm

FROZEN = ROOT / "tests" / "golden" / "results" / "v1"


@pytest.fixture
def runs() -> list[Run]:
    return find_runs(FROZEN)


def of(runs: list[Run], editor: str, kind: str = "counterfact") -> Run:
    return next(run for run in runs if (run.editor, run.benchmark.name) == (editor, kind))


def changed(run: Run, **data: Any) -> Run:
    return Run(run.folder, {**run.data, **data})


# Layout


def test_one_table_for_each_data_set_with_the_unedited_model_first(runs: list[Run]) -> None:
    first, second = summary_tables(runs)
    assert first.title == f"ours@1, tiny-gpt2@{runs[0].data['model']['revision']}"
    assert first.columns == ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS")
    assert [row.label for row in first.rows] == ["tiny-gpt2 (unedited)", "identity", "fake"]
    assert [row.n for row in first.rows] == ["6/7"] * 3
    assert second.columns == ("efficacy", "paraphrase", "specificity")
    assert [row.label for row in second.rows] == ["tiny-gpt2 (unedited)", "fake"]


def test_what_is_printed_is_what_the_run_file_holds(runs: list[Run]) -> None:
    table = summary_tables(runs)[0]
    entry = of(runs, "fake").data["metrics"]["GE"]
    cell = next(row for row in table.rows if row.label == "fake").cells["GE"]
    assert (cell.value, cell.low, cell.high) == (entry["value"], entry["low"], entry["high"])
    half = (entry["high"] - entry["low"]) / 2
    assert table.text(cell) == f"{entry['value']:.1f} ({half:.1f})"


def test_what_was_chosen_is_in_the_label_and_other_settings_are_other_rows(runs: list[Run]) -> None:
    fake = of(runs, "fake")
    other = changed(fake, editor={**fake.data["editor"], "given": {"strength": 0.1}})
    labels = [row.label for row in summary_tables([other, fake])[0].rows]
    assert labels == ["tiny-gpt2 (unedited)", "fake", "fake (strength=0.1)"]


def test_runs_with_another_protocol_stand_in_another_table(runs: list[Run]) -> None:
    fake = of(runs, "fake")
    assert len(summary_tables([fake, changed(fake, protocol={**fake.data["protocol"], "generation": None})])) == 2
    assert len(summary_tables([fake, changed(fake, dataset={**fake.data["dataset"], "content_hash": "x"})])) == 2


def test_missing_prints_as_a_dash(runs: list[Run]) -> None:
    fake = of(runs, "fake")
    none = {"value": None, "n": 0, "low": None, "high": None, "unit": "", "definition": 1}
    [table] = summary_tables([changed(fake, metrics={**fake.data["metrics"], "GE": none, "RS": none})])
    assert render([table], "markdown").splitlines()[5].endswith("| – | – | 6/7 |")
    assert to_latex(table).count("& -- & -- & 6/7") == 1
    assert to_json(table)["rows"][1]["cells"]["GE"] == {"value": None, "low": None, "high": None}


def test_edits_that_did_not_take_are_counted_under_the_table(runs: list[Run]) -> None:
    def line(case_id: int, new: float, true: float, edit: dict[str, float]) -> dict[str, Any]:
        return {
            "case_id": case_id,
            "post": {"rewrite_prompts_probs": [{"target_new": new, "target_true": true}]},
            "edit": edit,
        }

    searched = [
        line(0, 1.0, 2.0, {"loss": 0.1}),
        line(1, 2.0, 2.0, {"loss": 6.87, "update_frobenius": 0.0}),
        line(2, 3.0, 2.0, {"loss": 5.0}),
    ]
    run = changed(of(runs, "fake"))
    run.__dict__["cases"] = [*searched, {"case_id": 3, "error": {"stage": "edit", "reason": "none"}}]
    still = changed(of(runs, "identity"))
    still.__dict__["cases"] = [line(0, 3.0, 2.0, {"update_frobenius": 0.0})]
    [table] = summary_tables([run, still])
    assert table.note.endswith(
        "; fake: 2 of 3 edits did not take (their searches ended at losses of 5.00 to 6.87 nats)"
    )
    assert "identity:" not in table.note
    protocol = run.data["protocol"]
    together = changed(run, protocol={**protocol, "schedule": {**protocol["schedule"], "edits_at_once": 3}})
    together.__dict__["cases"] = searched
    assert summary_tables([together])[0].note.endswith("; fake: 2 of 3 facts did not take")
    accurate = changed(of(runs, "fake", "zsre"))
    accurate.__dict__["cases"] = [
        {"case_id": 0, "post": {"rewrite_prompts_correct": [True, False]}, "edit": {}},
        {"case_id": 1, "post": {"rewrite_prompts_correct": [True]}, "edit": {}},
    ]
    assert summary_tables([accurate])[0].note.endswith("; fake: 1 of 2 edits did not take")


TABLE = Table(
    title="a_b & c",
    groups=(("Score", ("S",)), ("Efficacy", ("ES", "EM"))),
    rows=(
        Row("one", {"S": Cell(89.24, 89.0, 89.6), "ES": Cell(-0.04)}, "10"),
        Row("x|y", {"EM": Cell(1.0)}, "9/10", 1),
    ),
    note="x100",
)


def test_a_column_of_fewer_records_says_so(runs: list[Run]) -> None:
    entries, n = runs[0].data["metrics"], runs[0].data["n"]["scored"]
    assert "PS 2" not in summary_tables([runs[0]])[0].note
    given = changed(runs[0], metrics={**entries, "PS": {**entries["PS"], "n": 2}})
    assert f"of {n} records, n is PS 2" in summary_tables([given])[0].note


def test_markdown_by_hand() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "**a_b & c**",
        "",
        "| Editor | Score S | Efficacy ES | Efficacy EM | n |",
        "|---|---:|---:|---:|---:|",
        "| one | 89.2 [89.0, 89.6] | 0.0 | – | 10 |",
        r"| x\|y | – | – | 1.0 | 9/10 |",
        "",
        "x100",
    ]


def test_latex_by_hand() -> None:
    lines = to_latex(TABLE).splitlines()
    assert lines[2] == r"\caption{a\_b \& c. x100}"
    assert lines[3] == r"\begin{tabular}{lrrrr}"
    assert lines[5] == r" & \multicolumn{1}{c}{Score} & \multicolumn{2}{c}{Efficacy} &  \\"
    assert lines[8:11] == [r"one & 89.2 [89.0, 89.6] & 0.0 & -- & 10 \\", r"\midrule", r"x|y & -- & -- & 1.0 & 9/10 \\"]
    plus = replace(TABLE, notation="plus-minus", signed=True)
    assert plus.text(Cell(89.24, 88.9, 89.6, "*")) == "+89.2 [+88.9, +89.6]*"
    assert plus.text(Cell(89.24, 88.94, 89.54, "*")) == "+89.2 ±0.3*"
    assert r"$\pm$0.3" in to_latex(replace(plus, rows=(Row("one", {"S": Cell(89.24, 88.94, 89.54)}, "10"),)))


def test_json(runs: list[Run]) -> None:
    values = json.loads(render(summary_tables(runs), "json"))
    assert [row["label"] for row in values[0]["rows"]] == ["tiny-gpt2 (unedited)", "identity", "fake"]
    with pytest.raises(BadInput, match="markdown, latex, json"):
        render([], "html")


# The paper


def test_rows_of_the_paper() -> None:
    xl = {row.label: row for row in paper_rows("counterfact", "gpt2-xl")}
    assert len(xl) == 9 and len(paper_rows("counterfact", "EleutherAI/gpt-j-6B")) == 5
    assert xl["GPT-2 XL"].cells["NS"] == Published(78.1, 0.6) and xl["GPT-2 XL"].editor == "unedited"
    assert xl["ROME"].cells["RS"] == Published(41.9, 0.3) and xl["ROME"].editor == "rome" and xl["ROME"].n == 7500
    assert xl["KE-CF"].editor == "ke_cf"
    assert len(paper_rows("zsre", "gpt2-xl")) == 8
    assert paper_rows("counterfact", "factlm") == [] == paper_rows("zsre", "gpt-j-6b")
    for edits, table, n in (("at once", "2210.07229 Table 2", 10_000), ("sequential", "2410.02355 Table 1", 2_000)):
        rows = {row.label: row for row in paper_rows("counterfact", "EleutherAI/gpt-j-6B", edits)}
        assert rows["GPT-J"].editor == "unedited" and rows["MEMIT"].editor == "memit"
        assert all(row.source.endswith(table) and row.n == n for row in rows.values())


def test_printed_rows_are_of_the_runs_own_sort_of_edits(runs: list[Run]) -> None:
    fake = of(runs, "fake")
    several = {**fake.data["protocol"]["schedule"], "edits_at_once": 10}
    together = replace(fake, data={**fake.data, "protocol": {**fake.data["protocol"], "schedule": several}})
    [table] = summary_tables([together], paper="gpt-j-6b")
    assert "2210.07229 Table 2" in table.note and table.rows[-1].n == "10000"
    assert table.text(table.rows[-1].cells["S"]) == "85.8" and "PM" not in table.rows[-1].cells
    with pytest.raises(BadInput, match="'gpt2-xl' on CounterFact, many facts in one edit;"):
        summary_tables([together], paper="gpt2-xl")


@pytest.mark.parametrize(
    ("model", "edits"),
    [
        *((model, "single") for model in ("gpt2-xl", "gpt2-medium", "gpt2-large", "gpt-j-6b")),
        *((model, "at once") for model in ("gpt-j-6b", "gpt-neox-20b")),
    ],
)
def test_the_papers_s_is_the_harmonic_mean_of_its_means(model: str, edits: Edits) -> None:
    for row in paper_rows("counterfact", model, edits):
        means = [row.cells[name].value for name in ("ES", "PS", "NS")]
        assert float(harmonic_mean(means)) == pytest.approx(row.cells["S"].value, abs=0.2), row.label
    assert sum(row.label in BASES for row in paper_rows("counterfact", model, edits)) == 1


def test_the_papers_rows_stand_below_ours(runs: list[Run]) -> None:
    table = summary_tables([of(runs, "fake")], paper="gpt2-xl")[0]
    assert table.rows[-1].label == "paper: ROME" and table.rows[-1].n == "7500"
    assert table.text(table.rows[-1].cells["S"]) == "89.2" and table.text(table.rows[-1].cells["PM"]) == "62.7 (0.8)"
    with pytest.raises(BadInput, match="no paper has rows for 'factlm' on CounterFact, single edits"):
        summary_tables(runs, paper="factlm")


# Differences


def test_a_run_does_not_differ_from_itself(runs: list[Run]) -> None:
    fake = of(runs, "fake")
    differences, n = paired(fake, fake)
    assert n == 6
    for summary in differences.values():
        e = summary.estimate
        assert e.value in {0.0, None} and e.low == (None if e.high is None else -e.high)


def test_differences_are_over_common_records_and_antisymmetric(runs: list[Run]) -> None:
    fake, identity = of(runs, "fake"), of(runs, "identity")
    there, n = paired(fake, identity)
    back, _ = paired(identity, fake)
    assert n == 6
    for name in ("S", "ES", "PM", "GE"):
        value, opposite = there[name].estimate.value, back[name].estimate.value
        assert value == pytest.approx(fake.data["metrics"][name]["value"] - identity.data["metrics"][name]["value"])
        assert opposite == pytest.approx(-value)  # type: ignore[operator]
    partial = Run(fake.folder, fake.data)
    partial.__dict__["cases"] = [line for line in fake.cases if line["case_id"] != 2]
    assert paired(partial, identity)[1] == 5


def test_a_star_marks_a_difference_that_is_clear(runs: list[Run]) -> None:
    fake, identity = of(runs, "fake"), of(runs, "identity")
    table = compare([fake], identity)
    assert table.rows[0].n == "6"
    for name in table.columns:
        cell = table.rows[0].cells[name]
        assert cell.low is not None and cell.high is not None
        assert (cell.mark == "*") == (cell.low > 0 or cell.high < 0)
        assert table.text(cell)[0] in "+-"


def test_different_data_sets_are_not_compared(runs: list[Run]) -> None:
    fake, identity = of(runs, "fake"), of(runs, "identity")
    with pytest.raises(BadInput, match="nothing to compare"):
        paired(of(runs, "fake", "zsre"), fake)
    other = Run(fake.folder, fake.data)
    other.__dict__["cases"] = [{**line, "requested_rewrite": {}} for line in fake.cases]
    with pytest.raises(BadInput, match=r"case 0 of .* is another record"):
        paired(other, identity)


# Export


def reference_summary(folder: Path) -> dict[str, float]:
    """What the reference's own summary makes of case files, from its description (spec 4.2 and 7.2)."""
    cases = [json.loads(path.read_text()) for path in sorted(folder.glob("case_*.json"))]
    found: dict[str, list[float]] = {}
    for case in cases:
        for side in ("pre", "post"):
            for sort in ("rewrite", "paraphrase", "neighborhood"):
                pairs = case[side][f"{sort}_prompts_probs"]
                sign = -1 if sort == "neighborhood" else 1
                wins = [sign * (pair["target_true"] - pair["target_new"]) > 0 for pair in pairs]
                found.setdefault(f"{side}_{sort}", []).append(sum(wins) / len(wins))
            found.setdefault(f"{side}_entropy", []).append(case[side]["ngram_entropy"])
    return {name: 100 * sum(values) / len(values) for name, values in found.items()}


def test_export_gives_the_references_case_files(runs: list[Run], tmp_path: Path) -> None:
    fake = of(runs, "fake")
    assert export(fake, tmp_path) == 6
    assert {path.name for path in tmp_path.iterdir()} == {
        "params.json",
        *(f"case_{i}.json" for i in (0, 1, 2, 3, 5, 6)),
    }
    case = json.loads((tmp_path / "case_2.json").read_text())
    assert list(case) == ["case_id", "requested_rewrite", "time", "post", "pre"]
    assert case["post"]["text"] == fake.cases[2]["post"]["text"] and "essence_score" not in case["post"]
    assert case["pre"]["rewrite_prompts_probs"] == fake.unedited[2]["pre"]["rewrite_prompts_probs"]
    assert json.loads((tmp_path / "params.json").read_text()) == {"strength": 0.5}
    summary = reference_summary(tmp_path)
    for name, ours in (("rewrite", "ES"), ("paraphrase", "PS"), ("neighborhood", "NS"), ("entropy", "GE")):
        assert summary[f"post_{name}"] == pytest.approx(fake.data["metrics"][ours]["value"])
        assert summary[f"pre_{name}"] == pytest.approx(fake.data["pre"][ours]["value"])
    with pytest.raises(BadInput, match="expected a format"):
        export(fake, tmp_path, "easyedit")


def test_export_of_zsre(runs: list[Run], tmp_path: Path) -> None:
    assert export(of(runs, "fake", "zsre"), tmp_path) == 4
    case = json.loads((tmp_path / "case_0.json").read_text())
    assert case["requested_rewrite"]["target_true"] == {"str": "<|endoftext|>"}
    assert set(case["post"]) == {f"{sort}_prompts_correct" for sort in ("rewrite", "paraphrase", "neighborhood")}


# Reproduce


def metrics_of(row: PaperRow, **changes: float) -> dict[str, dict[str, float]]:
    values = {name: number.value for name, number in row.cells.items()} | changes
    return {name: {"value": value, "low": value - 0.2, "high": value + 0.2} for name, value in values.items()}


def test_the_verdict_by_hand() -> None:
    row = paper_rows("counterfact", "gpt2-xl")[0]
    assert verdict(row, metrics_of(row), 7500).inside
    # 22.2 (0.9): both are rounded to one decimal.
    assert verdict(row, metrics_of(row, ES=23.15), 7500).inside
    outside = verdict(row, metrics_of(row, ES=23.3), 7500)
    assert not outside.inside and [check.metric for check in outside.checks if check.inside is False] == ["ES"]
    # The paper prints no interval of S: it must lie in ours.
    assert verdict(row, metrics_of(row, S=30.6), 7500).inside
    assert not verdict(row, metrics_of(row, S=30.8), 7500).inside


def test_what_is_missing_decides_nothing() -> None:
    row = paper_rows("counterfact", "gpt2-xl")[0]
    without: dict[str, Any] = {**metrics_of(row), "GE": {"value": None, "low": None, "high": None}}
    del without["RS"]
    one = verdict(row, without, 7500)
    assert one.inside and {c.metric for c in one.checks if c.inside is None} == {"GE", "RS"}
    assert not verdict(row, {}, 0).inside
    text = to_markdown(verdict_table([one, verdict(row, metrics_of(row, NS=70.0), 7500)]))
    assert "| ours: inside |" in text and "| ours: OUTSIDE |" in text and "70.0 !" in text


def test_reproduce_yields_the_unedited_row_before_it_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: Dataset = replace(counterfact(tmp_path / "data", bad=()), version="official")
    lm = replace(tiny_lm("gpt2", "float32"), name="gpt2-xl")
    options = Options(length=LENGTH, plan=Plan(chunk=4))
    verdicts: Iterator[Any] = reproduce(lm, data, tmp_path / "results", editors=("identity",), options=options)
    first = next(verdicts)
    assert (first.label, first.n) == ("GPT-2 XL", 7) and not first.inside
    assert not list(tmp_path.rglob("cases.jsonl"))
    assert list(verdicts) == [], "the paper has no row for identity"
    assert list(tmp_path.rglob("run.json"))


def test_reproduce_refuses_other_models_and_other_data(tmp_path: Path) -> None:
    data = counterfact(tmp_path, bad=())
    with pytest.raises(BadInput, match="the paper has no CounterFact row for 'tiny-gpt2'"):
        next(reproduce(tiny_lm("gpt2", "float32"), data, tmp_path))
    lm = replace(tiny_lm("gpt2", "float32"), name="gpt2-xl")
    with pytest.raises(BadInput, match="is not the official"):
        next(reproduce(lm, data, tmp_path))
    assert records_needed("EleutherAI/gpt-j-6B") == 2000
