"""`counterfact audit`: what a careful reader would mark in a data set, and a page to read through."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from counterfact.cli._common import Json, Limit, Seed, console
from counterfact.core.errors import BadInput


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("audit.html"),
    sample: Annotated[int, typer.Option(min=0, help="Records of every relation on the page.")] = 3,
    seed: Seed = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, prompts that give their answer away, neighbors that contradict the edit, bad seams.

    Example: `counterfact audit datasets/counterfact --page audit.html`
    """
    from counterfact.builders.audit import KINDS  # noqa: PLC0415
    from counterfact.builders.audit import audit as look_through  # noqa: PLC0415
    from counterfact.builders.audit_page import audit_page  # noqa: PLC0415
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.core.files import canonical_json, write_atomic  # noqa: PLC0415
    from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord  # noqa: PLC0415

    data = load_dataset(dataset, limit)
    records = [record for record in data.records if isinstance(record, CounterFactRecord)]
    if not records:
        raise BadInput(f"{dataset} holds no CounterFact records to look through")
    found = look_through(records)
    write_atomic(page, audit_page(records, found, data.label, sample, seed))
    if as_json:
        counts = {kind: {"found": count, "records": those} for kind, (count, those) in found.counts.items()}
        console.print(canonical_json({"records": len(records), "found": counts}), soft_wrap=True, markup=False)
        return
    table = Table(title=f"{data.label}, {len(records):,} records", title_justify="left")
    table.add_column("found")
    table.add_column("times", justify="right")
    table.add_column("records", justify="right")
    for kind in KINDS:
        count, those = found.counts[kind.name]
        table.add_row(kind.name, f"{count:,}", f"{those:,}", style="dim" if not count else "")
    console.print(table)
    console.print(f"what each means, examples, and records to read: {page}", style="dim")
