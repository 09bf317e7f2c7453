"""`counterfact updates`: a data set of facts that changed between two dumps of WikiData."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import Seed, console, progress_bar
from counterfact.cli._sources import Language, Pararel, Relations


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("updates")(updates)


def updates(
    old: Annotated[Path, typer.Argument(help="The older dump, truthy or full: .nt, .nt.gz or .nt.bz2.")],
    new: Annotated[Path, typer.Argument(help="The newer dump.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.", file_okay=False)] = Path("datasets/updates"),
    relation: Relations = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind that becomes records; may be repeated. Default: change, correction, undated."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Most records; of more they are drawn.")] = 100_000,
    pararel: Pararel = None,
    language: Language = "en",
    seed: Seed = 0,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "updates",
    version: Annotated[str | None, typer.Option(help="Version; default: by content.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read each dump.")] = 1,
) -> None:
    """Make records of the facts whose object was replaced between two dumps: edits to what is true now.

    Example: `counterfact updates latest-truthy-2024.nt.gz latest-truthy-2025.nt.gz --out datasets/updates`

    The folder also holds what was found of each kind, in `updates.jsonl`; `evaluate` takes it.
    """
    from counterfact.builders.updates import build as builder  # noqa: PLC0415

    with progress_bar("comparing") as advance:
        report = builder.build(
            out,
            old,
            new,
            relations=relation,
            kinds=kind or builder.KINDS,
            most=most,
            language=language,
            pararel=pararel,
            seed=seed,
            name=name,
            version=version,
            workers=workers,
            progress=advance,
        )
    counts = report.meta["counts"]
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    for title in ("found", "dropped"):
        if counts[title]:
            console.print(f"{title}: " + ", ".join(f"{number:,} {what}" for what, number in counts[title].items()))
