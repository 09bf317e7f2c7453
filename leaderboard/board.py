"""From runs and submissions to what a board shows: rows with intervals and marks, and what is known of each run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput
from core.records import Kind
from core.seeds import derive_seed
from evaluation.paper import paper_rows
from evaluation.store import RUN, load_run
from leaderboard.ranking import COLUMNS, Ranking, core_metrics, rank
from leaderboard.reading import Refused
from leaderboard.schema import ids_of
from leaderboard.significance import best_and_tied
from leaderboard.submission import RECORDS, read_submission, run_id
from metrics import COMPOSITES, METRICS
from metrics.intervals import Rows, bootstrap, mean_interval
from metrics.summary import blocks_of

TEXTS = 100
"""Records of a run whose first text is shown."""
LETTERS = 400
"""Of a text that is shown."""
PAPER = "https://arxiv.org/abs/2202.05262v5"
TABLES = {("zsre", "gpt2-xl"): 1, ("counterfact", "gpt2-xl"): 4, ("counterfact", "gpt-j-6b"): 4}
"""Of the paper; the smaller models are in Table 5 (CounterFact) and 6 (zsRE)."""
PAPER_MODELS = ("gpt2-xl", "gpt-j-6b", "gpt2-large", "gpt2-medium")


@dataclass(frozen=True)
class Entry:
    """One run on the board: its file, and what each record of its split gave."""

    id: str
    run: Mapping[str, Any]
    values: Mapping[str, Rows]
    """Per metric, shape (records of the split,); a failure is 0 where 0 is the worst value, else NaN."""
    cases: Sequence[Sequence[Any]]
    """`[case id, relation, prompt, new object, true object, text]` of each record that was scored."""


def load_entries(root: Path) -> tuple[list[Entry], dict[str, str]]:
    """Read every run and submission below a folder; return them, and why others were left out, by folder.

    Raises:
        BadInput: there are none.
    """
    entries: dict[str, Entry] = {}
    left_out: dict[str, str] = {}
    for path in sorted(root.rglob(RUN)):
        folder = path.parent
        try:
            if (folder / RECORDS).exists():
                submission = read_submission(folder)
                run, cases = submission.run, submission.cases
            else:
                finished = load_run(folder)
                run, cases = finished.data, finished.cases
            entry = entry_of(run, cases)
        except BadInput as error:
            left_out[str(folder.relative_to(root))] = str(error)
            continue
        entries.setdefault(entry.id, entry)
    if not entries:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadInput(f"no finished run in {root}{': ' + why if why else ''}; expected what `evaluate` wrote")
    return list(entries.values()), left_out


def entry_of(run: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> Entry:
    """Return a run as the board has it; records that are missing or failed count as failures.

    Raises:
        Refused: a record is not of the split.
    """
    kind: Kind = run["dataset"]["kind"]
    place = {case_id: index for index, case_id in enumerate(ids_of(run["dataset"]["record_ids"]))}
    lines = [line for line in cases if "post" in line]
    if foreign := [line["case_id"] for line in lines if line["case_id"] not in place]:
        raise Refused("foreign-record", f"case {foreign[0]} is not of the split")
    names = [name for name in COLUMNS[kind] if name in METRICS]
    values = {name: np.full(len(place), 0.0 if _worst_is_zero(name) else np.nan) for name in names}
    for line, block in zip(lines, blocks_of(lines, "post"), strict=True):
        for name in names:
            value = METRICS.get(name).compute(block)
            values[name][place[line["case_id"]]] = np.nan if value is None else value
    shown = [_case(line, index < TEXTS) for index, line in enumerate(lines)]
    return Entry(run_id(run), run, values, shown)


def scores_of(entry: Entry) -> dict[str, list[Any]]:
    """Return `[value, low, high, n]` of each column, x100 as printed; failures count as 0 where 0 is the worst."""
    run, kind = entry.run, entry.run["dataset"]["kind"]
    n = next(iter(entry.values.values())).size
    whole = run["n"]["scored"] == n
    cells = {}
    for name in COLUMNS[kind]:
        stored = run["metrics"].get(name)
        if stored is None:
            continue
        if whole or (name in METRICS and not _worst_is_zero(name)):
            estimate = [stored["value"], stored["low"], stored["high"], stored["n"]]
        elif name in METRICS:
            values = entry.values[name]
            found = mean_interval(values[np.isfinite(values)].tolist())
            estimate = [found.value, found.low, found.high, found.n]
            estimate[:3] = [None if x is None else x * METRICS.get(name).scale for x in estimate[:3]]
        else:
            table = np.stack([entry.values[part] for part in core_metrics(kind)], axis=1)
            found = bootstrap([table], COMPOSITES.get(name).combine, derive_seed(run["seeds"]["run"], "board", name))
            estimate = [None if x is None else x * 100 for x in (found.value, found.low, found.high)] + [found.n]
        cells[name] = [round(x, 6) if isinstance(x, float) else x for x in estimate]
    return cells


def board_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the groups of rows that may be compared, each best first, with the paper's rows for its model."""
    by_id = {entry.id: entry for entry in entries}
    cells = {entry.id: scores_of(entry) for entry in entries}
    runs = [{**entry.run, "id": entry.id, "score": cells[entry.id].get("S", [None])[0]} for entry in entries]
    groups = [_group(ranking, by_id, cells) for ranking in rank(runs)]
    taken = {(group["kind"], group["model"].partition("@")[0].rpartition("/")[2].lower()) for group in groups}
    kinds: tuple[Kind, ...] = ("counterfact", "zsre")
    for kind in kinds:
        for model in PAPER_MODELS:
            if (kind, model) not in taken and (rows := published(kind, model)):
                dataset = "CounterFact (released)" if kind == "counterfact" else "zsRE (MEND's split)"
                title = {
                    "dataset": dataset,
                    "kind": kind,
                    "model": model,
                    "protocol": "as published",
                    "n": rows[0]["n"],
                }
                groups.append({**title, "content": "", "weights": "", "columns": COLUMNS[kind], "rows": rows})
    return groups


def published(kind: Kind, model: str) -> list[dict[str, Any]]:
    """Return the paper's rows for a model, as rows of a board: marked, with their source, never ranked.

    >>> published("zsre", "gpt2-xl")[-1]["cells"]["efficacy"], published("zsre", "gpt2-xl")[-1]["source"][-7:]
    ([99.8, 99.8, 99.8, 10000], 'Table 1')
    """
    name = model.rpartition("/")[2].lower()
    table = TABLES.get((kind, name), 5 if kind == "counterfact" else 6)
    rows: list[dict[str, Any]] = []
    for row in paper_rows(kind, model):
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


def details(entry: Entry) -> dict[str, Any]:
    """Return what the page of one run shows: settings, provenance, scores by relation, every record."""
    run = entry.run
    names = core_metrics(run["dataset"]["kind"])
    place = {case_id: index for index, case_id in enumerate(ids_of(run["dataset"]["record_ids"]))}
    relations: dict[str, list[list[float]]] = {}
    cases = []
    for case in entry.cases:
        values = [_rounded(entry.values[name][place[case[0]]]) for name in names]
        relations.setdefault(case[1] or "–", []).append([np.nan if v is None else v for v in values])
        cases.append([*case, *values])
    kept = ("dataset", "model", "protocol", "seeds", "editor", "code", "n", "metrics", "pre", "environment")
    means = [[name, len(rows), *map(_rounded, np.mean(rows, axis=0))] for name, rows in sorted(relations.items())]
    return {"id": entry.id, "names": names, "relations": means, "cases": cases} | {key: run[key] for key in kept}


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a script, whatever texts it holds.

    >>> script_json("</script>")
    '"\\\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _group(ranking: Ranking, by_id: Mapping[str, Entry], cells: Mapping[str, Any]) -> dict[str, Any]:
    ids = [run["id"] for run in ranking.runs]
    scores = [{name: cell[0] for name, cell in cells[one].items()} for one in ids]
    marks = best_and_tied([by_id[one].values for one in ids], scores, ranking.columns, ranking.kind)
    first = ranking.runs[0]
    rows = [
        {"id": one, "editor": run["editor"]["name"], "label": _label(run), "model": ranking.model, "rank": place}
        | {"n": len(by_id[one].cases), "failed": ranking.n - len(by_id[one].cases), "published": False}
        | {"cells": cells[one], "marks": marked}
        for place, (one, run, marked) in enumerate(zip(ids, ranking.runs, marks, strict=True), 1)
    ]
    protocol = f"{first['protocol'].get('name')} {first['protocol'].get('version')}"
    return {
        "dataset": ranking.dataset, "kind": ranking.kind, "model": ranking.model, "protocol": protocol, "n": ranking.n,
        "content": first["dataset"]["content_hash"][:12], "weights": first["model"]["weights_hash"][:12],
        "columns": ranking.columns, "rows": rows + published(ranking.kind, first["model"]["name"]),
    }  # fmt: skip


def _label(run: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in run["editor"]["given"].items())
    seen = run["editor"].get("seen_in_training")
    notes = "; ".join(filter(None, [given, f"trained on {seen} of these records" if seen else ""]))
    return f"{run['editor']['name']} ({notes})" if notes else str(run["editor"]["name"])


def _case(line: Mapping[str, Any], with_text: bool) -> list[Any]:
    rewrite = line["requested_rewrite"]
    true = rewrite.get("target_true", {}).get("str")
    texts = [text for text in line["post"].get("text") or [] if text] if with_text else []
    prompt = str(rewrite["prompt"]).replace("{}", str(rewrite["subject"]))
    text = texts[0][:LETTERS] if texts else None
    return [line["case_id"], rewrite.get("relation_id"), prompt, rewrite["target_new"]["str"], true, text]


def _worst_is_zero(name: str) -> bool:
    return METRICS.get(name).bounds == (0.0, 1.0)


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
