"""The board in other programs' forms: CSV, parquet, Markdown, LaTeX, every_eval_ever, and a static Space's card."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import write_atomic, write_json
from evaluation.tables import Cell, Row, Table, to_latex, to_markdown
from leaderboard.board import Entry

SPACE = """---
title: Knowledge editing leaderboard
emoji: 📝
colorFrom: blue
colorTo: green
sdk: static
app_file: index.html
pinned: false
---

Editors of language models, ranked; every score with its interval. Made by `counterfact leaderboard build`.
"""
"""Card of a static Space: https://huggingface.co/docs/hub/spaces-config-reference."""
FORMULA = ("=", "+", "-", "@", "\t")
"""With these a spreadsheet takes a text for a formula."""


def write_exports(groups: Sequence[Mapping[str, Any]], entries: Sequence[Entry], out: Path) -> None:
    """Write `board.csv`, `.parquet`, `.md`, `.tex`, `every_eval_ever.json` and the `README.md` of a static Space."""
    rows = long_rows(groups)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _cell_text(value) for name, value in row.items()} for row in rows)
    write_atomic(out / "board.csv", text.getvalue())
    _write_parquet(rows, out / "board.parquet")
    tables = [table_of(group) for group in groups]
    write_atomic(out / "board.md", "\n".join(map(to_markdown, tables)))
    write_atomic(out / "board.tex", "\n".join(map(to_latex, tables)))
    write_json(out / "every_eval_ever.json", [every_eval_ever(entry) for entry in entries])
    write_atomic(out / "README.md", SPACE)


def long_rows(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each score on the board."""
    return [
        {
            "dataset": group["dataset"], "content_hash": group["content"], "model": group["model"],
            "protocol": group["protocol"], "editor": row["editor"], "label": row["label"], "run": row["id"],
            "published": row["published"], "source": row.get("source"), "rank": row["rank"], "metric": metric,
            "value": cell[0], "low": cell[1], "high": cell[2], "n": cell[3], "failed": row["failed"],
            "mark": row["marks"].get(metric),
        }
        for group in groups
        for row in group["rows"]
        for metric, cell in row["cells"].items()
    ]  # fmt: skip


def table_of(group: Mapping[str, Any]) -> Table:
    """Return a group as a table of the toolkit; a mark says that a score is not shown to differ from the best."""
    rows = []
    for row in group["rows"]:
        marks = {name: "≈" if mark == "tied" else "" for name, mark in row["marks"].items()}
        cells = {name: Cell(cell[0], cell[1], cell[2], marks.get(name, "")) for name, cell in row["cells"].items()}
        label = f"paper: {row['label']}" if row["published"] else f"{row['rank']}. {row['label']}"
        rows.append(Row(label, cells, str(row["n"]), int(row["published"])))
    title = f"{group['dataset']}, {group['model']}, {group['protocol']}"
    note = "x100, with half the width of the 95 % interval; ≈ not shown to differ from the best"
    return Table(title, (("", tuple(group["columns"])),), tuple(rows), note=note)


def every_eval_ever(entry: Entry) -> dict[str, Any]:
    """Return a run in the aggregate form of every_eval_ever 0.3.0 (arXiv:2606.14516)."""
    run = entry.run
    scores = [
        {
            "metric_config": {"metric_name": name, "unit": value["unit"], "lower_is_better": name == "essence"},
            "score_details": {
                "score": value["value"],
                "uncertainty": {
                    "confidence_interval": {"lower": value["low"], "upper": value["high"], "confidence_level": 0.95},
                    "num_samples": value["n"],
                },
            },
            "generation_config": {"editor": run["editor"]["name"], "settings": run["editor"]["settings"]},
        }
        for name, value in run["metrics"].items()
    ]
    dataset = f"{run['dataset']['name']}@{run['dataset']['version']}"
    return {
        "schema_version": "0.3.0",
        "evaluation_id": f"{dataset}/{run['model']['name']}/{run['editor']['name']}/{entry.id}",
        "retrieved_timestamp": str(run["environment"].get("finished")),
        "source_metadata": {"source_name": dataset, "source_type": "evaluation_run"},
        "eval_library": {"name": "counterfact-toolkit", "version": str(run["code"].get("version"))},
        "model_info": {"name": run["model"]["name"], "id": run["model"]["name"], "revision": run["model"]["revision"]},
        "evaluation_results": scores,
    }


def _cell_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    write_atomic(path, sink.getvalue().to_pybytes())
