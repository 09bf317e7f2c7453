"""`counterfact snapshot`: keep the part of WikiData that a build needs, so that it can be repeated as of that day."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli._common import console, progress_bar
from core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from builders.pararel import Relation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("snapshot")(snapshot)


def snapshot(
    out: Annotated[Path, typer.Argument(help="The slice, .nt or .nt.gz.")],
    sparql: Annotated[str | None, typer.Option(help="Take it from an endpoint (URL) or from files.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Take it from a truthy dump: .nt, .nt.gz or .nt.bz2.")] = None,
    pararel: Annotated[Path | None, typer.Option(help="A folder in ParaRel's layout; default: embedded.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Only this relation; may be repeated.")] = None,
    language: Annotated[str, typer.Option(help="Of the labels, by its code.")] = "en",
    site: Annotated[str | None, typer.Option(help="Keep which articles of this site are about what.")] = None,
    sitelinks: Annotated[bool, typer.Option(help="Keep sitelink counts (from a dump: where there are).")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that cut a dump; default: all cores.")] = None,
    contact: Annotated[str | None, typer.Option(help="Your e-mail or page, for the User-Agent of an endpoint.")] = None,
) -> None:
    """Write the facts, labels and articles that a build needs as N-Triples; `build --sparql` takes them.

    Example: `counterfact snapshot slice.nt.gz --dump latest-truthy.nt.bz2 --pararel pararel/data`

    Example: `counterfact snapshot slice.nt --sparql data/wikidata/facts.nt --site https://articles.counterfact.invalid/`
    """
    from builders.pararel import language_folder, load_pararel  # noqa: PLC0415
    from core.places import data_folder  # noqa: PLC0415

    if (sparql is None) == (dump is None):
        raise BadInput("expected one of --sparql (an endpoint or files) and --dump (a truthy dump)")
    if out.suffix not in (".nt", ".gz"):
        raise BadInput(f"expected a name that ends in .nt or .nt.gz, got {out}")
    folder = language_folder(pararel or data_folder() / "pararel", language)
    relations = [one for one in load_pararel(folder, language) if relation is None or one.id in relation]
    if relation and len(relations) < len(set(relation)):
        raise BadInput(f"no tuples of {', '.join(sorted(set(relation) - {one.id for one in relations}))} in {folder}")
    with progress_bar("slice") as advance:
        if dump is not None:
            from builders.dump import slice_of_dump  # noqa: PLC0415

            counts = slice_of_dump(
                dump,
                relations,
                out,
                language,
                site,
                workers=workers,
                progress=lambda done: advance("MB", done >> 20, None),
            )
            said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if count)
        else:
            said = _ask(str(sparql), contact, relations, out, language, site, sitelinks, advance)
    console.print(f"{out}: {said}", markup=False)


def _ask(
    sparql: str,
    contact: str | None,
    relations: "list[Relation]",
    out: Path,
    language: str,
    site: str | None,
    sitelinks: bool,
    advance: "Callable[[str, int, int | None], None]",
) -> str:
    from builders.slices import write_slice  # noqa: PLC0415
    from builders.snapshot import take_snapshot  # noqa: PLC0415
    from cli.build import open_facts  # noqa: PLC0415

    source = open_facts(sparql, contact)
    lines = take_snapshot(relations, source, language, site, sitelinks=sitelinks, progress=advance)
    return f"{write_slice(out, lines):,} statements"
