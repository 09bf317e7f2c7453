"""From runs and submissions to what a board shows: rows with intervals and marks, and what is known of each run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS
from counterfact.contracts.editors import EDITORS
from counterfact.evaluation.paper import Edits, edits_of, paper_rows
from counterfact.evaluation.schedule import in_words
from counterfact.leaderboard.entries import Entry
from counterfact.leaderboard.ranking import Ranking, columns_of, rank
from counterfact.leaderboard.significance import best_and_tied

RELEASED = {"counterfact": "CounterFact (released)", "zsre": "zsRE (MEND's split)"}
"""The data sets that the paper measured on, by benchmark."""
PAPER_MODELS = ("gpt2-xl", "gpt-j-6b", "gpt2-large", "gpt2-medium")
CELL = ("value", "low", "high", "n")
LEAST = 30
"""Records of which a ranking needs as many: with fewer the paired test has too few differences to find any but the
largest, and all would share the first place."""


def board_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the groups of rows that may be compared: each best first, then its controls and the paper's rows.

    The rows from the top down that are not shown to differ from the best Score S share the first place, up to the first
    that is; controls have no place, and nothing has one in a group of fewer than `LEAST` records.
    """
    by_id = {entry.id: entry for entry in entries}
    runs = [{**entry.run, "id": entry.id, "score": entry.cells.get("S", [None])[0]} for entry in entries]
    groups = [_group(ranking, by_id) for ranking in rank(runs)]
    taken = {(group["kind"], group["model"].partition("@")[0].rpartition("/")[2].lower()) for group in groups}
    for name, title in RELEASED.items():
        benchmark = BENCHMARKS.get(name)
        for model in PAPER_MODELS:
            if (name, model) not in taken and (rows := published(name, model)):
                known = {"dataset": title, "kind": name, "model": model, "protocol": "as published", "n": rows[0]["n"]}
                shown = {"columns": columns_of(benchmark), "parts": benchmark.score_parts, "rows": rows}
                headings = {"headings": benchmark.columns, "ranked": False}
                groups.append({**known, "content": "", "weights": "", **headings, **shown})
    return groups


def places(marks: Sequence[Mapping[str, str]]) -> list[tuple[int, bool]]:
    """Return the place of each row, best first, and whether it is shared: the first, up to a row that differs.

    >>> places([{"S": "best"}, {"S": "tied"}, {}, {"S": "tied"}])
    [(1, True), (1, True), (3, False), (4, False)]
    """
    first = len(list(takewhile(lambda mark: "S" in mark, marks)))
    return [(1, first > 1) if place <= first else (place, False) for place in range(1, len(marks) + 1)]


def place_of(row: Mapping[str, Any]) -> str:
    """Return a row's place as it is written, `1=` where it is shared; nothing where it has none.

    >>> place_of({"rank": 1, "tied": True}), place_of({"rank": None, "tied": False})
    ('1=', '')
    """
    return "" if row["rank"] is None else f"{row['rank']}{'=' * row['tied']}"


def ranking_in_words(group: Mapping[str, Any]) -> str:
    """Return who stands where in a group of `board_of`, in one line."""
    ranked = [f"{place_of(row)} {row['label']}" for row in group["rows"] if row["rank"] is not None]
    why = f"nobody, of fewer than {LEAST} records"
    return f"Ranking on {group['dataset']} by Score S: {', '.join(ranked) if group['ranked'] else why}"


def published(benchmark: str, model: str, edits: Edits = "single") -> list[dict[str, Any]]:
    """Return printed rows for a model and sort of edits, as rows of a board: marked, with their source, never ranked.

    >>> published("zsre", "gpt2-xl")[-1]["cells"]["efficacy"], published("zsre", "gpt2-xl")[-1]["source"][-7:]
    ([99.8, 99.8, 99.8, 10000], 'Table 1')
    """
    name = model.rpartition("/")[2].lower()
    rows: list[dict[str, Any]] = []
    for row in paper_rows(benchmark, model, edits):
        cells = {}
        for column, cell in row.cells.items():
            half = cell.half
            ends = [None, None] if half is None else [round(cell.value - half, 6), round(cell.value + half, 6)]
            cells[column] = [cell.value, *ends, row.n]
        rows.append(
            {
                "id": None, "editor": row.editor or row.label, "label": row.label, "model": name, "n": row.n,
                "failed": 0, "rank": None, "tied": False, "control": False, "published": True, "source": row.source,
                "cells": cells, "marks": {},
            }
        )  # fmt: skip
    return rows


def is_control(editor: str) -> bool:
    """Return whether an editor is a control: no competitor, never ranked and never the best."""
    return editor in EDITORS and EDITORS.get(editor).control


def editor_title(editor: str) -> str:
    """Return what papers call an editor, or its name where it is not known here.

    >>> editor_title("ft_l"), editor_title("of_another_team")
    ('FT+L', 'of_another_team')
    """
    return EDITORS.get(editor).title or editor if editor in EDITORS else editor


def _group(ranking: Ranking, by_id: Mapping[str, Entry]) -> dict[str, Any]:
    mine = [by_id[run["id"]] for run in ranking.runs if not is_control(run["editor"]["name"])]
    controls = [by_id[run["id"]] for run in ranking.runs if is_control(run["editor"]["name"])]
    first, ranked = ranking.runs[0], ranking.n >= LEAST
    marks: list[dict[str, str]] = [{} for _ in mine]
    if ranked:
        scores = [{name: cell[0] for name, cell in entry.cells.items()} for entry in mine]
        marks = best_and_tied(mine, scores, ranking.columns, ranking.benchmark)
    rows = [
        _row(ranking, entry, marked) | ({"rank": place, "tied": shared} if ranked else {})
        for entry, marked, (place, shared) in zip(mine, marks, places(marks), strict=True)
    ]
    rows += [_unedited(ranking), *(_row(ranking, entry, {}) | {"control": True} for entry in controls)]
    printed = published(ranking.benchmark.name, first["model"]["name"], edits_of(first["protocol"]["schedule"]))
    protocol = f"{first['protocol'].get('name')} {first['protocol'].get('version')}"
    if schedule := in_words(first["protocol"]["schedule"]):
        protocol += f", {schedule}"
    return {
        "dataset": ranking.dataset, "kind": ranking.benchmark.name, "model": ranking.model, "protocol": protocol,
        "n": ranking.n, "ranked": ranked,
        "content": first["dataset"]["content_hash"][:12], "weights": first["model"]["weights_hash"][:12],
        "columns": ranking.columns, "headings": ranking.benchmark.columns, "parts": ranking.benchmark.score_parts,
        "rows": rows + printed,
    }  # fmt: skip


def _row(ranking: Ranking, entry: Entry, marks: Mapping[str, str]) -> dict[str, Any]:
    editor = entry.run["editor"]["name"]
    return {
        "id": entry.id, "editor": editor, "label": _label(entry.run), "model": ranking.model, "rank": None,
        "tied": False, "n": entry.scored, "failed": ranking.n - entry.scored, "control": False, "published": False,
        "cells": entry.cells, "marks": marks, "records": entry.records,
    }  # fmt: skip


def _unedited(ranking: Ranking) -> dict[str, Any]:
    """Return the unedited model as a row: what most runs measured of it."""
    pre = [run["pre"] for run in ranking.runs]
    usual, _ = Counter(repr(each.get("S")) for each in pre).most_common(1)[0]
    first = next(each for each in pre if repr(each.get("S")) == usual)
    found = {name: first[name] for name in ranking.columns if name in first}
    return {
        "id": None, "editor": "", "label": "Unedited model", "model": ranking.model, "rank": None, "tied": False,
        "n": max((each["n"] for each in found.values()), default=0), "failed": 0, "control": True, "published": False,
        "marks": {}, "cells": {name: [each.get(key) for key in CELL] for name, each in found.items()},
    }  # fmt: skip


def _label(run: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in run["editor"]["given"].items())
    seen = run["editor"].get("seen_in_training")
    notes = "; ".join(filter(None, [given, f"trained on {seen} of these records" if seen else ""]))
    title = editor_title(run["editor"]["name"])
    return f"{title} ({notes})" if notes else title
