"""`counterfact stats`: what a data set is made of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterfact.cli._common import Json, Limit, console
from counterfact.core.files import canonical_json

if TYPE_CHECKING:
    from counterfact.builders.audit.statistics import Count


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stats")(stats)


def stats(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    paper: Annotated[bool, typer.Option(help="Show the paper's own figures beside.")] = True,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Count what a CounterFact data set is made of, in the form of the paper's Table 2.

    Example: `counterfact stats datasets/counterfact`
    """
    from counterfact.builders.audit.loading import load_counterfact  # noqa: PLC0415
    from counterfact.builders.audit.statistics import PAPER_TABLE_2, stats_json, table_2  # noqa: PLC0415

    data = load_counterfact(dataset, limit)
    if as_json:
        console.print(canonical_json(stats_json(data.records)), soft_wrap=True, markup=False)
        return
    console.print(statistics_table(table_2(data.records), data.label, PAPER_TABLE_2 if paper else ()))
    for record in data.bad[:10]:
        console.print(f"left out: record {record.case_id}: {record.reason}", markup=False)


def statistics_table(counts: "Sequence[Count]", title: str, paper: "Sequence[Count]" = ()) -> Table:
    """Return the paper's Table 2 for a data set, its own figures beside where they are given."""
    # Narrow enough for a terminal of eighty columns.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("item", no_wrap=True)
    for head in ("total", "per relation", "per record"):
        table.add_column(head, justify="right", min_width=8)
    for head in ("paper", "per relation", "per record") if paper else ():
        table.add_column(head, justify="right", min_width=8, style="dim")
    known = {count.item: count for count in paper}
    for count in counts:
        ours = (f"{count.total:,}", f"{count.per_relation:,.1f}", f"{count.per_record:.2f}")
        table.add_row(count.item, *ours, *(_beside(known.get(count.item)) if paper else ()))
    return table


def _beside(count: "Count | None") -> tuple[str, str, str]:
    if count is None:
        return ("–", "–", "–")
    return (f"{count.total:,}", f"{count.per_relation:,.0f}", f"{count.per_record:.0f}")
