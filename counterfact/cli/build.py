"""`counterfact build` and `zsre`: make data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterfact.cli._common import RECORDS, SERVERS, SOURCES, Limit, Seed, console, note, progress_bar
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
from counterfact.cli._tables import print_table
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.builders.build_folder import BuildReport
    from counterfact.builders.request_estimate import Estimate


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("build")(build)
    app.command("zsre")(zsre)


def build(
    out: Annotated[Path, typer.Option(help="Folder of the data set.", file_okay=False)] = Path("datasets/counterfact"),
    sparql: Sparql = None,
    pararel: Pararel = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="Folder in ParaRel's layout; its templates top up relations with too few.", rich_help_panel=SOURCES
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of generation prompts, P*.txt.", rich_help_panel=SOURCES)
    ] = None,
    articles: Annotated[
        str | None,
        typer.Option(help="wikipedia, a MediaWiki API's URL, or .jsonl with id, title, text.", rich_help_panel=SOURCES),
    ] = None,
    relation: Relations = None,
    language: Language = "en",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name; default: counterfact-embedded, counterfact if live.")] = None,
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
    context: Annotated[
        str,
        typer.Option(
            help="Before paraphrase prompts: a sentence of the `articles` or of `texts`, or `none`.",
            rich_help_panel=RECORDS,
        ),
    ] = "articles",
    texts: Annotated[
        str | None,
        typer.Option(help="Texts for --context texts: .txt, .jsonl, folder, Hub id.", rich_help_panel=SOURCES),
    ] = None,
    paraphrases: Annotated[int, typer.Option(help="Paraphrase prompts in a record.", rich_help_panel=RECORDS)] = 2,
    neighbors: Annotated[int, typer.Option(help="Neighborhood prompts in a record.", rich_help_panel=RECORDS)] = 10,
    attributes: Annotated[int, typer.Option(help="Attribute prompts in a record.", rich_help_panel=RECORDS)] = 10,
    generations: Annotated[int, typer.Option(help="Generation prompts in a record.", rich_help_panel=RECORDS)] = 10,
    references: Annotated[
        int, typer.Option(help="Most reference texts of a new object; 0 for none.", rich_help_panel=RECORDS)
    ] = 25,
    sitelinks: Annotated[
        int, typer.Option(help="Only subjects with this many sitelinks or more.", rich_help_panel=RECORDS)
    ] = 0,
    non_conflicting: Annotated[
        bool,
        typer.Option(
            "--non-conflicting",
            help="Only records that can all be edited at once; says how many.",
            rich_help_panel=RECORDS,
        ),
    ] = False,
    of: Annotated[
        str | None,
        typer.Option(
            "--from", help="With --non-conflicting: take them from this data set, build none.", rich_help_panel=SOURCES
        ),
    ] = None,
    contact: Contact = None,
    cache: Cache = None,
    replay: Replay = False,
    pack: Annotated[
        Path | None,
        typer.Option(help="Afterwards, copy the responses used into this one file.", rich_help_panel=SERVERS),
    ] = None,
    pause: Pause = 1.0,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only estimate how many requests a live build sends.", rich_help_panel=SERVERS),
    ] = False,
) -> None:
    """Build CounterFact from ParaRel templates and WikiData facts; by default from the embedded world.

    Example: `counterfact build --sparql wdqs --contact you@example.org --out datasets/counterfact-live`

    What can all be edited at once: `counterfact build --non-conflicting --from counterfact.json --out datasets/multi`
    """
    from counterfact.builders import counterfact, multi  # noqa: PLC0415
    from counterfact.builders.choosing.settings import BuildSettings  # noqa: PLC0415
    from counterfact.builders.request_estimate import estimate_build  # noqa: PLC0415
    from counterfact.builders.sources.options import SourceOptions  # noqa: PLC0415

    if of is not None:
        if not non_conflicting:
            raise BadInput("--from takes records out of a data set by a rule; say which: --non-conflicting")
        _print_report(multi.build(out, of, name=name, version=version))
        return
    sources: dict[str, Any] = {
        "sparql": sparql,
        "pararel": pararel,
        "templates": templates,
        "prompts": prompts,
        "articles": articles,
        "texts": texts,
        "contact": contact,
        "cache": cache,
        "replay": replay,
        "pause": pause,
    }
    settings: dict[str, Any] = {
        "seed": seed,
        "version": version,
        "relations": relation,
        "paraphrase_context": context,
        "language": language,
        "paraphrase_prompts": paraphrases,
        "neighborhood_prompts": neighbors,
        "attribute_prompts": attributes,
        "generation_prompts": generations,
        "reference_texts": references,
        "fewest_sitelinks": sitelinks,
        "non_conflicting": non_conflicting,
    }
    if plan:
        checked = BuildSettings.check(settings, "counterfact build")
        _print_estimate(estimate_build(SourceOptions(**sources, language=language), checked))
        return
    if fetched := SourceOptions(**sources, language=language).fetched if not replay else []:
        note(f"over the network, where the cache lacks it: {'; '.join(fetched)}")
    with progress_bar("building") as advance:
        report = counterfact.build(out, **sources, **settings, pack=pack, name=name, progress=advance)
    _print_report(report)
    print_responses(report.responses)
    if report.packed is not None:
        console.print(f"{pack}: all {report.packed:,} responses; build from it with --replay --cache {pack}")


def zsre(
    out: Annotated[Path, typer.Option(help="Folder of the data set.", file_okay=False)] = Path("datasets/zsre"),
    source: Annotated[
        Path | None, typer.Option(help="zsre_mend_eval.json, or a file of another known form; default: embedded.")
    ] = None,
    limit: Limit = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
) -> None:
    """Make a zsRE data set of a split in MEND's form, KnowEdit, QAEdit or others; by default of the embedded split.

    Example: `counterfact zsre --source zsre_mend_eval.json --limit 10000 --out datasets/zsre`
    """
    from counterfact.builders import zsre as builder  # noqa: PLC0415

    report = builder.build(out, source, limit=limit, name=name, version=version)
    read = report.meta["sources"]["zsre"]
    for line in (f"{read['file']}: {read['form']}, records read: {report.meta['counts']['read']:,}", *read["notes"]):
        note(line)
    _print_report(report)


def _print_estimate(estimate: "Estimate") -> None:
    rows: list[Sequence[str]] = [
        (cost.kind, f"{cost.requests:,}", cost.basis, f"{cost.hours:.2f}") for cost in estimate.costs
    ]
    requests = sum(cost.requests for cost in estimate.costs)
    hours = sum(cost.hours for cost in estimate.costs)
    rows.append((f"in all, {estimate.relations} relations", f"{requests:,}", "", f"{hours:.2f}"))
    title = "requests of a live build, when nothing fails"
    print_table(("requested", "requests", "known", "hours"), rows, title=title)


def _print_report(report: "BuildReport") -> None:
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    if dropped := report.meta["counts"].get("dropped"):
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
