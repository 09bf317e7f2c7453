"""Table 2 of a data set, as it is printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from counterfact.builders.audit.statistics import Count


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
