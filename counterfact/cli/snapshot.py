"""`counterfact snapshot`: keep the part of WikiData that a build needs, so that it can be repeated as of that day."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import console, progress_bar
from counterfact.cli._sources import Cache, Contact, Language, Pararel, Pause, Relations, Replay, Sparql, print_answers
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from counterfact.builders.sources.pararel import Relation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("snapshot")(snapshot)


def snapshot(
    out: Annotated[Path, typer.Argument(help="The slice, .nt or .nt.gz.")],
    sparql: Sparql = None,
    dump: Annotated[Path | None, typer.Option(help="Instead, a truthy dump: .nt, .nt.gz or .nt.bz2.")] = None,
    pararel: Pararel = None,
    relation: Relations = None,
    language: Language = "en",
    site: Annotated[str | None, typer.Option(help="Keep which articles of this site are about what.")] = None,
    sitelinks: Annotated[bool, typer.Option(help="Keep sitelink counts (from a dump: where there are).")] = False,
    most: Annotated[
        int, typer.Option(min=0, help="From a dump: subjects of an object that are kept, about, by hash; 0: all.")
    ] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that cut a dump; default: all cores.")] = None,
    contact: Contact = None,
    cache: Cache = None,
    replay: Replay = False,
    pause: Pause = 1.0,
) -> None:
    """Write the facts, labels and articles that a build needs as N-Triples; `build --sparql` takes them.

    Example: `counterfact snapshot slice.nt.gz --dump latest-truthy.nt.bz2 --pararel pararel/data`

    Example: `counterfact snapshot slice.nt --sparql data/wikidata/facts.nt --site https://articles.counterfact.invalid/`
    """
    from counterfact.builders.sources.options import Named  # noqa: PLC0415

    if (sparql is None) == (dump is None):
        raise BadInput("expected one of --sparql (an endpoint or files) and --dump (a truthy dump)")
    if out.suffix not in (".nt", ".gz"):
        raise BadInput(f"expected a name that ends in .nt or .nt.gz, got {out}")
    named = Named(sparql, pararel, contact=contact, cache=cache, replay=replay, pause=pause)
    if dump is not None:
        from counterfact.builders.sources.truthy_dump import slice_of_dump  # noqa: PLC0415

        relations = _relations(named.open_pararel(), language, relation)
        with progress_bar("slice") as advance:
            tell = partial(_tell_megabytes, advance)
            counts = slice_of_dump(dump, relations, out, language, site, most=most, workers=workers, progress=tell)
        said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if count)
        console.print(f"{out}: {said}", markup=False)
        return
    from counterfact.builders.sources.ntriples import write_slice  # noqa: PLC0415
    from counterfact.builders.sources.snapshot import take_snapshot  # noqa: PLC0415

    opened = named.open()
    relations = _relations(opened.sources.pararel, language, relation)
    with progress_bar("slice") as advance:
        lines = take_snapshot(relations, opened.sources.facts, language, site, sitelinks=sitelinks, progress=advance)
    console.print(f"{out}: {write_slice(out, lines):,} statements", markup=False)
    if opened.client is not None:
        print_answers(opened.client)


def _relations(pararel: Path, language: str, names: list[str] | None) -> "list[Relation]":
    from counterfact.builders.sources.pararel import language_folder, load_pararel  # noqa: PLC0415

    folder = language_folder(pararel, language)
    relations = [one for one in load_pararel(folder, language) if names is None or one.id in names]
    if missing := set(names or ()) - {one.id for one in relations}:
        raise BadInput(f"no tuples of {', '.join(sorted(missing))} in {folder}")
    return relations


def _tell_megabytes(advance: "Callable[[str, int, int | None], None]", done: int) -> None:
    advance("MB", done >> 20, None)
