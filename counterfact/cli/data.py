"""`counterfact stats`: what a data set is made of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Json, Limit, console, print_json
from counterfact.cli._tables import print_table

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
        print_json(stats_json(data.records))
        return
    print_statistics(table_2(data.records), data.label, PAPER_TABLE_2 if paper else ())
    for record in data.bad[:10]:
        console.print(f"left out: record {record.case_id}: {record.reason}")


def print_statistics(counts: "Sequence[Count]", title: str, paper: "Sequence[Count]" = ()) -> None:
    """Print the paper's Table 2 for a data set, its own figures beside where they are given."""
    heads, known = ("total", "per relation", "per record"), {count.item: count for count in paper}
    rows = []
    for count in counts:
        ours = (f"{count.total:,}", f"{count.per_relation:,.1f}", f"{count.per_record:.2f}")
        rows.append([count.item, *ours, *(_beside(known.get(count.item)) if paper else ())])
    theirs = ("paper: total", *heads[1:]) if paper else ()
    print_table(("item", *heads, *theirs), rows, title=title)


def _beside(count: "Count | None") -> tuple[str, str, str]:
    if count is None:
        return ("–", "–", "–")
    return (f"{count.total:,}", f"{count.per_relation:,.0f}", f"{count.per_record:.0f}")
