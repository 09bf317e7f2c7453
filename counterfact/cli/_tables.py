"""Tables for a terminal: what is too wide is wrapped between words, then broken between columns; no number is cut."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from counterfact.cli._common import console

if TYPE_CHECKING:
    from counterfact.evaluation.tables import Table as ResultTable

LONG = 24
"""Letters of a word beyond which it may be folded."""
_WORD = re.compile(r"[^\W\d_]{3}")
Placed = tuple[list[str], int, bool]
"""A column as it is printed, head first; its width; and whether it holds numbers."""


def print_tables(tables: Sequence["ResultTable"], form: str) -> None:
    """Print tables in one of the forms."""
    from counterfact.evaluation.summary import render  # noqa: PLC0415

    if form != "terminal":
        typer.echo(render(tables, form), nl=False)
        return
    for table in tables:
        sections = [row.section for row in table.rows]
        print_table(
            [table.heading, *table.columns, "n"],
            [[row.label, *(table.text(row.cells.get(name)) for name in table.columns), row.n] for row in table.rows],
            title=table.title,
            note=table.note,
            rules=[place for place, pair in enumerate(pairwise(sections)) if len(set(pair)) > 1],
        )
        console.print()


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    note: str = "",
    dim: Collection[int] = (),
    rules: Collection[int] = (),
) -> None:
    """Print a table that is no wider than the terminal.

    A column without words is one of numbers: to the right, and whole. Where there is no room for all numbers beside
    their intervals, the intervals stand below; where there is none for that either, the columns go on in a further
    part, which begins with the first column again.

    Args:
        heads: of the columns.
        rows: a text for each column.
        title: above the table.
        note: below it.
        dim: numbers of rows that matter less.
        rules: numbers of rows with a line below them.
    """
    if title:
        console.print(title, style="italic")
    for number, part in enumerate(arrange([list(column) for column in zip(heads, *rows, strict=True)], console.width)):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, width=_total(part))
        for (head, *_), width, numbers in part:
            table.add_column(Text(head), width=width, justify="right" if numbers else "left", overflow="fold")
        for row, cells in enumerate(zip(*(cells for (_, *cells), _, _ in part), strict=True)):
            table.add_row(*map(Text, cells), style="dim" if row in dim else None, end_section=row in rules)
        console.print(*([""] if number else []), table, sep="\n", soft_wrap=False, crop=False)
    if note:
        console.print(note, style="italic")


def arrange(columns: Sequence[list[str]], width: int) -> list[list[Placed]]:
    r"""Return the parts of a table, one below the other, each with its columns and their widths.

    Args:
        columns: the texts of each, its head first.
        width: of the terminal.

    >>> [part] = arrange([["who", "rome"], ["S", "9.5 [1.0, 2.0]"]], 11)
    >>> [cells[1] for cells, _, _ in part], [size for _, size, _ in part]
    (['rome', '9.5\n[1.0\n2.0]'], [4, 4])
    >>> parts = arrange([["who", "rome"], ["ES", "99.0"], ["PS", "98.5"], ["NS", "97.5"]], 14)
    >>> [[cells[0] for cells, _, _ in part] for part in parts]
    [['who', 'ES', 'PS'], ['who', 'NS']]
    """
    whole = [_placed(column, stacked=False) for column in columns]
    if _total(whole) + len(whole) - 1 <= width:  # there is room for two spaces between columns
        return [
            [(cells, size + (place > 0 or not numbers), numbers) for place, (cells, size, numbers) in enumerate(whole)]
        ]
    for stacked in (False, True):
        wanted = [_placed(column, stacked=stacked) for column in columns]
        if _total(_narrow(wanted)) <= width:
            return [_widened(wanted, width)]
    parts = [wanted[:1]]
    for column in wanted[1:]:
        if len(parts[-1]) > 1 and _total(_narrow([*parts[-1], column])) > width:
            parts.append(wanted[:1])
        parts[-1].append(column)
    return [_widened(part, width) for part in parts]


def _placed(column: list[str], *, stacked: bool) -> Placed:
    """Return a column in its natural width: over numbers, the head's words may stand below each other."""
    head, *cells = column
    numbers = bool(cells) and not any(_WORD.search(cell) for cell in cells)
    if numbers and stacked:
        cells = [re.sub(r",? ", "\n", cell) for cell in cells]
    lines = [line for cell in [*cells, *(head.split() if numbers else [head])] for line in cell.split("\n")]
    return [head, *cells], max(map(len, lines), default=0), numbers


def _narrow(columns: Sequence[Placed]) -> list[Placed]:
    """Return columns of words as narrow as their longest words, and numbers as they are."""
    words = [[min(len(word), LONG) for cell in cells for word in cell.split()] for cells, _, _ in columns]
    return [
        (cells, size if numbers else max(mine, default=0), numbers)
        for (cells, size, numbers), mine in zip(columns, words, strict=True)
    ]


def _total(columns: Sequence[Placed]) -> int:
    return sum(size for _, size, _ in columns) + len(columns) - 1


def _widened(wanted: Sequence[Placed], width: int) -> list[Placed]:
    """Deal the width to columns, beyond what they need, always to the one that lacks most."""
    sizes = [size for _, size, _ in _narrow(wanted)]
    for _ in range(width - sum(sizes) - len(sizes) + 1):
        lacking = [size - have for (_, size, _), have in zip(wanted, sizes, strict=True)]
        if max(lacking) <= 0:
            break
        sizes[lacking.index(max(lacking))] += 1
    return [(cells, size, numbers) for (cells, _, numbers), size in zip(wanted, sizes, strict=True)]
