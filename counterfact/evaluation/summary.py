"""Finished runs as the paper's tables: Table 4 for CounterFact, Table 1 for zsRE, and differences between editors.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.metrics import METRICS, TEXT_METRICS
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json
from counterfact.evaluation.paper import IN_WORDS, Edits, PaperRow, Published, edits_of, paper_rows
from counterfact.evaluation.schedule import alike, in_words
from counterfact.evaluation.sequential_rows import condition_table, notes_of, sequential_rows
from counterfact.evaluation.store import Run
from counterfact.evaluation.tables import (
    Cell,
    Row,
    Table,
    decimals_of,
    entry_cells,
    scored_of,
    to_json,
    to_latex,
    to_markdown,
)
from counterfact.statistics.intervals import published_interval
from counterfact.statistics.summary import Side, Summary, blocks_of, paired_differences, record_values
from counterfact.statistics.values import took

ORDER = (
    *("identity", "ft", "ft_l", "kn", "ke", "ke_cf", "ke_zsre", "ke_cf_neighbors"),
    *("mend", "mend_cf", "mend_zsre", "mend_cf_neighbors", "rome", "r_rome"),
)
"""Editors as the paper orders them; others follow by name."""


def summary_tables(runs: Sequence[Run], paper: str | None = None) -> list[Table]:
    """Return one table for each data set, model and schedule of edits, the unedited model in its first row.

    Runs on the facts that the model knows stand below those on all, after the unedited model's scores on these facts.
    Sequential runs have a row for what their edits keep, and one for what they do at first; a second table says what
    became of the model.

    Args:
        runs: finished runs.
        paper: a model of the papers ("gpt2-xl") whose printed rows follow ours, of the same sort of edits.

    Raises:
        BadInput: no paper has rows for that model on any of the benchmarks.
    """
    if paper is not None and not any(_printed(run, paper) for run in runs):
        measured = ", ".join(dict.fromkeys(f"{run.benchmark.title}, {IN_WORDS[_edits(run)]}" for run in runs))
        raise BadInput(f"no paper has rows for {paper!r} on {measured}; there are some for gpt2-xl and gpt-j-6b")
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        model, dataset = run.data["model"], run.data["dataset"]
        key = (run.dataset, dataset["content_hash"], model["name"], model["weights_hash"], model["dtype"])
        protocol = {**run.data["protocol"], "schedule": _but_for_order(run)}
        groups.setdefault((*key, str(protocol), str(run.data["seeds"])), []).append(run)
    tables = []
    for group in groups.values():
        members = sorted(group, key=place_of)
        tables.append(_table(members, paper))
        if _is_sequential(members[0]):
            tables.append(condition_table(members, _title(members)))
    return tables


def compare(runs: Sequence[Run], baseline: Run) -> Table:
    """Return the mean differences of runs to a baseline, over the records that both scored.

    A star marks a difference whose 95 % interval excludes zero. That of S comes from a paired bootstrap.

    Raises:
        BadInput: a run is of another data set than the baseline.
    """
    rows = []
    for run in runs:
        differences, n = paired(run, baseline)
        cells = {}
        for name, summary in differences.items():
            e = summary.estimate
            clear = e.low is not None and e.high is not None and (e.low > 0 or e.high < 0)
            cells[name] = Cell(e.value, e.low, e.high, "*" if clear else "", decimals_of(name))
        rows.append(Row(run.label, cells, str(n)))
    title = f"Paired differences to {baseline.label} on {baseline.benchmark.on(baseline.dataset)}, {baseline.model}"
    note = "x100; * the 95 % interval excludes zero"
    return Table(title, baseline.benchmark.columns, tuple(rows), baseline.benchmark.notation, signed=True, note=note)


def paired(run: Run, baseline: Run) -> tuple[dict[str, Summary], int]:
    """Return the difference of every metric between two runs on the records that both scored, and their number.

    Raises:
        BadInput: the runs are of different data sets, or their edits were made by unlike schedules.
    """
    if reason := why_unlike(run, baseline):
        raise BadInput(reason)
    mine = {line["case_id"]: line for line in run.cases if "post" in line}
    theirs = {line["case_id"]: line for line in baseline.cases if "post" in line}
    common = [case_id for case_id in mine if case_id in theirs]
    differing = [i for i in common if mine[i]["requested_rewrite"] != theirs[i]["requested_rewrite"]]
    if differing:
        raise BadInput(f"case {differing[0]} of {run.folder} is another record than that of {baseline.folder}")
    first = blocks_of([mine[case_id] for case_id in common], "post")
    second = blocks_of([theirs[case_id] for case_id in common], "post")
    return paired_differences(first, second, run.benchmark, run.data["seeds"]["run"]), len(common)


def why_unlike(run: Run, baseline: Run) -> str | None:
    """Return why a difference between two runs would say nothing of their editors; None: it would."""
    if (run.dataset, run.benchmark) != (baseline.dataset, baseline.benchmark):
        one, other = (each.benchmark.on(each.dataset) for each in (run, baseline))
        return f"{run.folder} is on {one}, {baseline.folder} on {other}: nothing to compare"
    schedules = [each.data["protocol"]["schedule"] for each in (run, baseline)]
    if alike(schedules[0]) != alike(schedules[1]):
        one, other = (in_words(schedule) or "one edit for each fact" for schedule in schedules)
        return f"unlike schedules: {run.folder} has {one}, {baseline.folder} {other}; nothing to compare"
    return None


def render(tables: Sequence[Table], form: str) -> str:
    """Return tables as text.

    Args:
        tables: of `summary_tables` or `compare`.
        form: `markdown`, `latex` or `json`.

    Raises:
        BadInput: another form.
    """
    forms: dict[str, Callable[[Sequence[Table]], str]] = {
        "markdown": lambda some: "\n".join(map(to_markdown, some)),
        "latex": lambda some: "\n".join(map(to_latex, some)),
        "json": lambda some: canonical_json([to_json(table) for table in some]) + "\n",
    }
    if form not in forms:
        raise BadInput(f"expected a form among {', '.join(forms)}, got {form!r}")
    return forms[form](tables)


def _table(runs: Sequence[Run], paper: str | None) -> Table:
    first, benchmark = runs[0].data, runs[0].benchmark
    as_published, sequential = paper is not None, _is_sequential(runs[0])
    rows: list[Row] = []
    for place, (read, some) in enumerate(groupby(runs, lambda run: run.known_of)):
        chosen = list(some)
        name = "unedited" if read is None else f"unedited, known facts of {read:,}"
        unedited = cells_of(chosen[0], "pre", as_published=as_published)
        scored = scored_of(chosen[0].data["n"]["unedited"])
        rows.append(Row(f"{first['model']['name']} ({name})", unedited, scored, 2 * place))
        if sequential:
            rows += sequential_rows(chosen, 2 * place + 1)
            continue
        for run in chosen:
            cells = cells_of(run, "post", as_published=as_published)
            rows.append(Row(run.label, cells, scored_of(run.data["n"]), 2 * place + 1))
    note = "x100, with the 95 % interval"
    if as_published:
        note = "x100, ± 1.96 standard deviations / √n, as the paper has it; S with its interval from a bootstrap"
    if paper is not None:
        published = _printed(runs[0], paper)
        note += "".join(f"; paper: {source}" for source in dict.fromkeys(row.source for row in published))
        rows += [Row(f"paper: {row.label}", _published(row), str(row.n), rows[-1].section + 1) for row in published]
    return Table(
        title=_title(runs),
        groups=benchmark.columns,
        rows=tuple(rows),
        notation=benchmark.notation,
        note="; ".join(
            [note, *(notes_of(runs) if sequential else []), *_other_units(benchmark), *_fewer(runs), *_not_taken(runs)]
        ),
    )


def _printed(run: Run, model: str) -> list[PaperRow]:
    return paper_rows(run.benchmark.name, model, _edits(run))


def _edits(run: Run) -> Edits:
    return edits_of(run.data["protocol"]["schedule"])


def _title(runs: Sequence[Run]) -> str:
    model, schedule = runs[0].data["model"], in_words(_but_for_order(runs[0]))
    title = f"{runs[0].benchmark.on(runs[0].dataset)}, {model['name']}@{model['revision'][:8]}"
    return f"{title}, {schedule}" if schedule else title


def _is_sequential(run: Run) -> bool:
    return bool(run.data["protocol"]["schedule"]["sequential"])


def _but_for_order(run: Run) -> dict[str, Any]:
    """Return a run's schedule without its order, in which repeats differ."""
    schedule: dict[str, Any] = run.data["protocol"]["schedule"]
    return {**schedule, "order": 0} if _is_sequential(run) else schedule


def _fewer(runs: Sequence[Run]) -> list[str]:
    """Return which columns are of fewer records than were scored, as where some have no paraphrases."""
    told: dict[str, None] = {}
    for run in runs:
        for section, scored in (("pre", run.data["n"]["unedited"]["scored"]), ("metrics", run.data["n"]["scored"])):
            entries = {name: run.data[section][name] for name in run.benchmark.shown if name in run.data[section]}
            # Where no texts were generated, that no record has a score of texts says nothing.
            told_apart = {name: each["n"] for name, each in entries.items() if each["n"] or name not in TEXT_METRICS}
            fewer = [f"{name} {n}" for name, n in told_apart.items() if n < scored]
            told |= {f"of {scored} records, n is {', '.join(fewer)}": None} if fewer else {}
    return list(told)


def _not_taken(runs: Sequence[Run]) -> list[str]:
    """Return how many edits of each run did not take, and how far their searches came.

    An edit that changes nothing and was not searched for, such as those of `identity`, was no attempt. Of many facts in
    one edit only the mean loss is known, which says nothing of those that did not take.
    """
    told = []
    for run in runs:
        edits = [(line.get("edit", {}), took(line["post"])) for line in run.cases if "post" in line]
        asked = [(edit, taken) for edit, taken in edits if edit.get("update_frobenius") != 0 or "loss" in edit]
        missed = [edit for edit, taken in asked if taken is False]
        if missed:
            alone = run.data["protocol"]["schedule"]["edits_at_once"] == 1
            losses = [edit["loss"] for edit in missed if edit.get("loss") is not None] if alone else []
            what = "edits" if alone else "facts"
            told.append(f"{run.label}: {len(missed):,} of {len(asked):,} {what} did not take{_ended_at(losses)}")
    return told


def _ended_at(losses: Sequence[float]) -> str:
    if len(losses) == 1:
        return f" (its search ended at a loss of {losses[0]:.2f} nats)"
    return f" (their searches ended at losses of {min(losses):.2f} to {max(losses):.2f} nats)" if losses else ""


def cells_of(run: Run, side: Side, *, as_published: bool = False) -> dict[str, Cell]:
    """Return a run's cells, or the unedited model's, with the intervals of today or of the paper."""
    section, lines = ("metrics", run.cases) if side == "post" else ("pre", run.unedited)
    entries: Mapping[str, Mapping[str, Any]] = run.data[section]
    cells = entry_cells(entries)
    if as_published:
        for name, values in record_values(blocks_of(lines, side), run.benchmark).items():
            found = published_interval([value * METRICS.get(name).scale for value in values if value is not None])
            if name in cells:
                cells[name] = replace(cells[name], low=found.low, high=found.high)
    return cells


def _other_units(benchmark: Benchmark[Any]) -> list[str]:
    """Return which columns are not printed x100, and their units."""
    units: dict[str, list[str]] = {}
    for name in benchmark.shown:
        if name in METRICS and METRICS.get(name).scale == 1:
            units.setdefault(METRICS.get(name).unit, []).append(name)
    return [f"{', '.join(names)} in {unit}" for unit, names in units.items()]


def _published(row: PaperRow) -> dict[str, Cell]:
    def cell(number: Published) -> Cell:
        half = number.half
        return Cell(number.value) if half is None else Cell(number.value, number.value - half, number.value + half)

    return {name: cell(number) for name, number in row.cells.items()}


def place_of(run: Run) -> tuple[int, int, str, int, str]:
    """Return what runs are sorted by in tables: those on known facts last, editors as the paper orders them."""
    known = ORDER.index(run.editor) if run.editor in ORDER else len(ORDER)
    order = run.data["protocol"]["schedule"].get("order", 0)
    return run.known_of or 0, known, run.label, order, Path(run.folder).name
