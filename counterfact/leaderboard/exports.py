"""The board in other programs' forms: CSV, parquet, Markdown, LaTeX, every_eval_ever, and a static Space's card."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterfact.core.files import write_atomic
from counterfact.evaluation.tables import Cell, Row, Table, to_latex, to_markdown
from counterfact.leaderboard.board import place_of
from counterfact.leaderboard.entries import Entry
from counterfact.leaderboard.every_eval_ever import write_every_eval_ever

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
    """Write `board.csv`, `.parquet`, `.md`, `.tex`, `every_eval_ever.zip` and the `README.md` of a static Space."""
    rows = long_rows(groups)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _cell_text(value) for name, value in row.items()} for row in rows)
    write_atomic(out / "board.csv", text.getvalue())
    _write_parquet(rows, out / "board.parquet")
    tables = [table_of(group) for group in groups]
    write_atomic(out / "board.md", "\n".join(map(to_markdown, tables)))
    write_atomic(out / "board.tex", "\n".join(map(to_latex, tables)).replace("≈", r"$\approx$"))
    write_every_eval_ever(entries, out / "every_eval_ever.zip")
    write_atomic(out / "README.md", SPACE)


def long_rows(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each score on the board."""
    return [
        {
            "dataset": group["dataset"], "content_hash": group["content"], "model": group["model"],
            "protocol": group["protocol"], "editor": row["editor"], "label": row["label"], "run": row["id"],
            "published": row["published"], "control": row["control"], "source": row.get("source"), "rank": row["rank"],
            "metric": metric,
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
        place = place_of(row)
        label = f"paper: {row['label']}" if row["published"] else f"{place}. {row['label']}" if place else row["label"]
        rows.append(Row(label, cells, str(row["n"]), 2 if row["published"] else int(row["control"])))
    title = f"{group['dataset']}, {group['model']}, {group['protocol']}"
    note = "x100, with the 95 % interval; ≈ not shown to differ from the best"
    return Table(title, (("", tuple(group["columns"])),), tuple(rows), note=note)


def _cell_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    write_atomic(path, sink.getvalue().to_pybytes())
