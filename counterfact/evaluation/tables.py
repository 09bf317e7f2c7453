"""Tables of numbers with intervals, and three ways to write them: Markdown, LaTeX, JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterfact.contracts.benchmarks import Notation
from counterfact.contracts.metrics import METRICS

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A number, its interval, and a mark behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    mark: str = ""
    decimals: int = 1

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    cells: Mapping[str, Cell]
    n: str
    """Records that are in it, of how many."""
    section: int = 0
    """A rule is drawn where it changes."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers under grouped columns, as the paper prints them (x100)."""

    title: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Headings, and the columns below each."""
    rows: tuple[Row, ...]
    notation: Notation = "parentheses"
    signed: bool = False
    """Whether a plus sign is printed, as for differences."""
    note: str = ""
    heading: str = "Editor"
    """Of the first column, which names the rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in order."""
        return tuple(column for _, columns in self.groups for column in columns)

    def text(self, cell: Cell | None) -> str:
        """Return a cell as it is printed; without a number it is a dash.

        Of an interval half the width is printed where the number lies in its middle, else both ends.

        >>> table = Table("", (), ())
        >>> table.text(Cell(99.0, 94.6, 99.8)), table.text(Cell(-0.04)), table.text(None)
        ('99.0 [94.6, 99.8]', '0.0', '–')
        >>> table.text(Cell(0.125, 0.12, 0.13, decimals=3))
        '0.125 (0.005)'
        """
        if cell is None or cell.value is None:
            return MISSING
        number, interval = _rounded(cell.value, cell.decimals, self.signed), ""
        if cell.low is not None and cell.high is not None:
            interval = self._interval(cell.value, cell.low, cell.high, cell.decimals)
        return f"{number} {interval}".rstrip() + cell.mark

    def _interval(self, value: float, low: float, high: float, decimals: int) -> str:
        below, above = (_rounded(width, decimals, False) for width in (value - low, high - value))
        if below != above:
            return f"[{_rounded(low, decimals, self.signed)}, {_rounded(high, decimals, self.signed)}]"
        return f"({below})" if self.notation == "parentheses" else f"±{below}"


def entry_cells(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """Return the entries of a run file's metrics as cells."""
    return {
        name: Cell(entry["value"], entry["low"], entry["high"], decimals=decimals_of(name))
        for name, entry in entries.items()
    }


def decimals_of(name: str) -> int:
    """Return how many decimals a metric is printed with: one where it is printed x100, else two."""
    return 2 if name in METRICS and METRICS.get(name).scale == 1 else 1


def scored_of(counts: Mapping[str, Any]) -> str:
    """Return how many records were scored, and of how many where some failed.

    >>> scored_of({"asked": 10, "scored": 10}), scored_of({"asked": 10, "scored": 9})
    ('10', '9/10')
    """
    return str(counts["asked"]) if counts["scored"] == counts["asked"] else f"{counts['scored']}/{counts['asked']}"


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, its title in bold above it."""
    heads = [table.heading, *(_heading(group, column) for group, columns in table.groups for column in columns), "n"]
    lines = [f"**{table.title}**", "", _pipes(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for row in table.rows:
        cells = [table.text(row.cells.get(column)) for column in table.columns]
        lines.append(_pipes([row.label, *cells, row.n]))
    return "\n".join([*lines, *(["", table.note] if table.note else [])]) + "\n"


def to_latex(table: Table) -> str:
    """Return the table in LaTeX; it needs the package `booktabs`."""
    spans = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{_tex(group)}}}" for group, columns in table.groups]
    body: list[str] = []
    for index, row in enumerate(table.rows):
        if index and row.section != table.rows[index - 1].section:
            body.append(r"\midrule")
        cells = [_tex(table.text(row.cells.get(column))) for column in table.columns]
        body.append(" & ".join([_tex(row.label), *cells, _tex(row.n)]) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(' '.join(filter(None, (table.title + '.', table.note))))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) + 1)}}}",
            r"\toprule",
            " & ".join(["", *spans, ""]) + r" \\",
            " & ".join([_tex(table.heading), *map(_tex, table.columns), "$n$"]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain values, unrounded; a number that is missing is `None`."""
    rows = []
    for row in table.rows:
        cells = {column: row.cells.get(column, Cell(None)) for column in table.columns}
        values = {column: {"value": c.value, "low": c.low, "high": c.high} for column, c in cells.items()}
        rows.append({"label": row.label, "n": row.n, "cells": values})
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "note": table.note}


def _rounded(value: float, decimals: int, signed: bool) -> str:
    # Adding 0.0 turns a negative zero into a positive one.
    return format(round(value, decimals) + 0.0, f"{'+' if signed else ''}.{decimals}f")


def _heading(group: str, column: str) -> str:
    return f"{group} {column}" if group else column


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _tex(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "±": r"$\pm$", MISSING: "--"}
    return "".join(marks.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
