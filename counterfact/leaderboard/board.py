"""From runs and submissions to what a board shows: rows with intervals and marks, and what is known of each run."""

from collections.abc import Mapping, Sequence
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS
from counterfact.evaluation.paper import paper_rows
from counterfact.evaluation.schedule import in_words
from counterfact.leaderboard.entries import Entry
from counterfact.leaderboard.ranking import Ranking, columns_of, rank
from counterfact.leaderboard.significance import best_and_tied

PAPER = "https://arxiv.org/abs/2202.05262v5"
TABLES = {("zsre", "gpt2-xl"): 1, ("counterfact", "gpt2-xl"): 4, ("counterfact", "gpt-j-6b"): 4}
"""Of the paper; the smaller models are in Table 5 (CounterFact) and 6 (zsRE)."""
RELEASED = {"counterfact": "CounterFact (released)", "zsre": "zsRE (MEND's split)"}
"""The data sets that the paper measured on, by benchmark."""
PAPER_MODELS = ("gpt2-xl", "gpt-j-6b", "gpt2-large", "gpt2-medium")


def board_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the groups of rows that may be compared, each best first, with the paper's rows for its model."""
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
                groups.append({**known, "content": "", "weights": "", **shown})
    return groups


def published(benchmark: str, model: str) -> list[dict[str, Any]]:
    """Return the paper's rows for a model, as rows of a board: marked, with their source, never ranked.

    >>> published("zsre", "gpt2-xl")[-1]["cells"]["efficacy"], published("zsre", "gpt2-xl")[-1]["source"][-7:]
    ([99.8, 99.8, 99.8, 10000], 'Table 1')
    """
    name = model.rpartition("/")[2].lower()
    table = TABLES.get((benchmark, name), 5 if benchmark == "counterfact" else 6)
    rows: list[dict[str, Any]] = []
    for row in paper_rows(benchmark, model):
        cells = {}
        for column, cell in row.cells.items():
            half = cell.half
            ends = [None, None] if half is None else [round(cell.value - half, 6), round(cell.value + half, 6)]
            cells[column] = [cell.value, *ends, row.n]
        source = f"{PAPER} Table {table}"
        rows.append(
            {
                "id": None, "editor": row.editor or row.label, "label": row.label, "model": name, "n": row.n,
                "failed": 0, "rank": None, "published": True, "source": source, "cells": cells, "marks": {},
            }
        )  # fmt: skip
    return rows


def _group(ranking: Ranking, by_id: Mapping[str, Entry]) -> dict[str, Any]:
    mine = [by_id[run["id"]] for run in ranking.runs]
    scores = [{name: cell[0] for name, cell in entry.cells.items()} for entry in mine]
    marks = best_and_tied(mine, scores, ranking.columns, ranking.benchmark)
    first = ranking.runs[0]
    rows = [
        {"id": entry.id, "editor": entry.run["editor"]["name"], "label": _label(entry.run), "model": ranking.model}
        | {"rank": place, "n": entry.scored, "failed": ranking.n - entry.scored, "published": False}
        | {"cells": entry.cells, "marks": marked, "records": entry.records}
        for place, (entry, marked) in enumerate(zip(mine, marks, strict=True), 1)
    ]
    protocol = f"{first['protocol'].get('name')} {first['protocol'].get('version')}"
    if schedule := in_words(first["protocol"]["schedule"]):
        protocol += f", {schedule}"
    return {
        "dataset": ranking.dataset, "kind": ranking.benchmark.name, "model": ranking.model, "protocol": protocol,
        "n": ranking.n,
        "content": first["dataset"]["content_hash"][:12], "weights": first["model"]["weights_hash"][:12],
        "columns": ranking.columns, "parts": ranking.benchmark.score_parts,
        "rows": rows + published(ranking.benchmark.name, first["model"]["name"]),
    }  # fmt: skip


def _label(run: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in run["editor"]["given"].items())
    seen = run["editor"].get("seen_in_training")
    notes = "; ".join(filter(None, [given, f"trained on {seen} of these records" if seen else ""]))
    return f"{run['editor']['name']} ({notes})" if notes else str(run["editor"]["name"])
