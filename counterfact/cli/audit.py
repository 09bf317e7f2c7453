"""`counterfact audit`: what a careful reader would mark in a data set, and a page to read through."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from counterfact.cli._common import Json, Limit, Seed, console
from counterfact.core.files import canonical_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    page: Annotated[Path, typer.Option(help="The page to write.", dir_okay=False)] = Path("audit.html"),
    sample: Annotated[int, typer.Option(min=0, help="Records of each relation that the page shows.")] = 3,
    seed: Seed = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, prompts that give their answer away, neighbors that contradict the edit, malformed prompts.

    Example: `counterfact audit datasets/counterfact --page audit.html`
    """
    from counterfact.builders.audit.page import write_audit  # noqa: PLC0415

    label, found = write_audit(dataset, page, sample, seed, limit)
    if as_json:
        console.print(canonical_json(found.to_json()), soft_wrap=True, markup=False)
        return
    table = Table(title=f"{label}, {found.records:,} records", title_justify="left")
    table.add_column("found")
    table.add_column("times", justify="right")
    table.add_column("records", justify="right")
    for kind, (count, records) in found.counts.items():
        table.add_row(kind, f"{count:,}", f"{records:,}", style="dim" if not count else "")
    console.print(table)
    console.print(f"what each means, examples, and records to read: {page}", style="dim")
