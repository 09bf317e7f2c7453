"""`counterfact build` and `zsre`: make data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterfact.cli._common import Limit, Seed, console, note, progress_bar
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
        Path | None, typer.Option(help="Folder in ParaRel's layout that tops up its templates; default: ours.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Folder of generation prompts, P*.txt.")] = None,
    articles: Annotated[
        str | None, typer.Option(help="wikipedia, a MediaWiki API's URL, or .jsonl with id, title, text.")
    ] = None,
    relation: Relations = None,
    language: Language = "en",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name; default: counterfact-embedded, counterfact if live.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the data set.")] = None,
    preset: Annotated[
        str, typer.Option(help="paper: as CounterFact was released; strict: one object a subject, prompts spread.")
    ] = "paper",
    pool: Annotated[
        int | None, typer.Option(help="Subjects of an object that prompts are drawn from; 0 for all. [preset]")
    ] = None,
    pool_order: Annotated[
        str, typer.Option(help="Which subjects are in a pool: the first by Q-`id`, or by number of `sitelinks`.")
    ] = "id",
    fewest_neighbors: Annotated[
        int | None, typer.Option(help="Fewest subjects behind neighborhood prompts. [preset]")
    ] = None,
    several_objects: Annotated[
        str | None, typer.Option(help="Subjects with more than one object: keep or drop. [preset]")
    ] = None,
    implied_objects: Annotated[
        str | None, typer.Option(help="New objects that imply a true one or follow from it: exclude or allow. [preset]")
    ] = None,
    context: Annotated[
        str, typer.Option(help="Before paraphrase prompts: a sentence of the `articles` or of `texts`, or `none`.")
    ] = "articles",
    texts: Annotated[str | None, typer.Option(help="Texts for --context texts: .txt, .jsonl, folder, Hub id.")] = None,
    paraphrases: Annotated[int, typer.Option(help="Paraphrase prompts in a record.")] = 2,
    neighbors: Annotated[int, typer.Option(help="Neighborhood prompts in a record.")] = 10,
    attributes: Annotated[int, typer.Option(help="Attribute prompts in a record.")] = 10,
    generations: Annotated[int, typer.Option(help="Generation prompts in a record.")] = 10,
    references: Annotated[int, typer.Option(help="Most reference texts of a new object; 0 for none.")] = 25,
    sitelinks: Annotated[int, typer.Option(help="Only subjects with this many sitelinks or more.")] = 0,
    non_conflicting: Annotated[
        bool,
        typer.Option("--non-conflicting", help="Only records that can all be edited at once; says how many."),
    ] = False,
    whole_articles: Annotated[
        bool, typer.Option("--whole-articles", help="Reference texts are whole articles of Wikipedia: one a request.")
    ] = False,
    of: Annotated[
        str | None, typer.Option("--from", help="With --non-conflicting: take them from this data set, build none.")
    ] = None,
    contact: Contact = None,
    cache: Cache = None,
    replay: Replay = False,
    pack: Annotated[Path | None, typer.Option(help="Afterwards, copy the responses used into this one file.")] = None,
    pause: Pause = 1.0,
    plan: Annotated[bool, typer.Option(help="Only estimate how many requests a live build sends.")] = False,
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
        _print_report(multi.build(out, of, name=name, **({"version": version} if version else {})))
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
        "whole_articles": whole_articles,
    }
    chosen = {
        "version": version,
        "pool": pool,
        "fewest_neighbors": fewest_neighbors,
        "several_objects": several_objects,
        "implied_objects": implied_objects,
    }
    settings: dict[str, Any] = {
        **{name: value for name, value in chosen.items() if value is not None},
        "seed": seed,
        "preset": preset,
        "pool_order": pool_order,
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
    with progress_bar("building") as advance:
        report = counterfact.build(out, **sources, **settings, pack=pack, name=name, progress=advance)
    _print_report(report)
    _print_spread(report)
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
    table = Table(title="requests of a live build, when nothing fails", title_justify="left")
    table.add_column("requested")
    table.add_column("requests", justify="right")
    table.add_column("known")
    table.add_column("hours", justify="right")
    for cost in estimate.costs:
        table.add_row(cost.kind, f"{cost.requests:,}", cost.basis, f"{cost.hours:.2f}")
    requests = sum(cost.requests for cost in estimate.costs)
    hours = sum(cost.hours for cost in estimate.costs)
    table.add_row(f"in all, {estimate.relations} relations", f"{requests:,}", "", f"{hours:.2f}")
    console.print(table)


def _print_spread(report: "BuildReport") -> None:
    """Print how far prompts about other subjects are spread, beside what pools predict and beside the paper's."""
    from counterfact.builders.choosing.expectation import PAPER  # noqa: PLC0415

    table = Table(title="prompts about other subjects", title_justify="left")
    for column in ("", "this build", "its pools predict", "CounterFact"):
        table.add_column(column, justify="right" if column else "left")
    for kind, paper in PAPER.items():
        for (what, found), known in zip(report.meta["counts"]["spread"][kind].items(), paper, strict=True):
            values = (*found.values(), known)
            table.add_row(f"{kind}: {what.replace('_', ' ')}", *map(_spread_cell, values))
    console.print(table)


def _spread_cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _print_report(report: "BuildReport") -> None:
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    if dropped := report.meta["counts"].get("dropped"):
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
