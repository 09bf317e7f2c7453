"""`counterfact snapshot`: keep the part of WikiData that a build needs, so that it can be repeated as of that day."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import SOURCES, console, progress_bar
from counterfact.cli._sources import (
    Cache,
    Contact,
    Language,
    Pararel,
    Pause,
    Relations,
    Replay,
    Sparql,
    print_responses,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("snapshot")(snapshot)


def snapshot(
    out: Annotated[Path, typer.Argument(help="The slice, .nt or .nt.gz.", dir_okay=False)],
    sparql: Sparql = None,
    dump: Annotated[
        Path | None, typer.Option(help="Instead, a truthy dump: .nt, .nt.gz or .nt.bz2.", rich_help_panel=SOURCES)
    ] = None,
    pararel: Pararel = None,
    relation: Relations = None,
    language: Language = "en",
    site: Annotated[
        str | None, typer.Option(help="Keep which articles of this site are about what.", rich_help_panel=SOURCES)
    ] = None,
    sitelinks: Annotated[
        bool, typer.Option("--sitelinks", help="Keep sitelink counts; from a dump, always.", rich_help_panel=SOURCES)
    ] = False,
    pool: Annotated[
        int,
        typer.Option(
            min=0,
            help="Largest --pool of builds from the slice; 0 for any. What more subjects are is not kept.",
            rich_help_panel=SOURCES,
        ),
    ] = 20,
    most: Annotated[
        int,
        typer.Option(
            min=0,
            help="From a dump: how many subjects of an object to keep, about; 0 for all.",
            rich_help_panel=SOURCES,
        ),
    ] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that read a dump; default: all cores.")] = None,
    contact: Contact = None,
    cache: Cache = None,
    replay: Replay = False,
    pause: Pause = 1.0,
) -> None:
    """Write the facts, labels and articles that a build needs as N-Triples; `build --sparql` takes them.

    Example: `counterfact snapshot slice.nt.gz --dump latest-truthy.nt.bz2 --pararel pararel/data`

    Example: `counterfact snapshot slice.nt --sparql data/wikidata/facts.nt --site https://articles.counterfact.invalid/`
    """
    from counterfact.builders.sources import snapshot as snapshots  # noqa: PLC0415
    from counterfact.builders.sources.options import SourceOptions  # noqa: PLC0415

    sources = SourceOptions(
        sparql, pararel, contact=contact, cache=cache, replay=replay, pause=pause, language=language
    )
    with progress_bar("slice") as advance:
        report = snapshots.snapshot(
            out,
            sources,
            dump,
            relations=relation,
            site=site,
            sitelinks=sitelinks,
            pool=pool,
            most=most,
            workers=workers,
            progress=advance,
        )
    said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.counts.items()) if count)
    console.print(f"{out}: {said}")
    print_responses(report.responses)
