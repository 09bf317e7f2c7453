"""`counterfact audit`: what a careful reader would mark in a data set, and a page to read through."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import Json, Limit, Seed, console, print_json
from counterfact.cli._recovery import print_recovery
from counterfact.cli._tables import print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    page: Annotated[Path, typer.Option(help="The page to write.", dir_okay=False)] = Path("audit.html"),
    sample: Annotated[int, typer.Option(min=0, help="Records of each relation that the page shows.")] = 3,
    seed: Seed = 0,
    limit: Limit = None,
    official: Annotated[
        str | None, typer.Option(help="CounterFact in any form: say what of it the data set recovers, and keep it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, prompts that give their answer away, neighbors that contradict the edit, malformed prompts.

    Example: `counterfact audit datasets/counterfact --page audit.html`

    Beside the released data: `counterfact audit datasets/counterfact --official counterfact.json`
    """
    from counterfact.builders.audit import findings, recovery  # noqa: PLC0415
    from counterfact.builders.audit.loading import load_counterfact  # noqa: PLC0415
    from counterfact.builders.audit.page import audit_page  # noqa: PLC0415
    from counterfact.core.files import write_atomic  # noqa: PLC0415

    data = load_counterfact(dataset, limit)
    label, found = data.label, findings.audit(data.records, data.bad)
    write_atomic(page, audit_page(data.records, found, label, sample, seed))
    recovered = None if official is None else recovery.measure_recovery(dataset, official)
    if recovered is not None and (Path(dataset) / "build.json").is_file():
        recovery.write_recovery(Path(dataset), recovered)
    if as_json:
        print_json(found.to_json() | ({} if recovered is None else {"recovery": recovered.to_json()}))
        return
    rows = [(kind, f"{count:,}", f"{records:,}") for kind, (count, records) in found.counts.items()]
    absent = [place for place, (count, _) in enumerate(found.counts.values()) if not count]
    print_table(("found", "times", "records"), rows, title=f"{label}, {found.records:,} records", dim=absent)
    if recovered is not None:
        print_recovery(recovered)
    console.print(f"what each means, examples, and records to read: {page}", style="dim")
