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
            help="Folder in ParaRel's layout that tops up its templates; default: ours.", rich_help_panel=SOURCES
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of generation prompts, P*.txt.", rich_help_panel=SOURCES)
    ] = None,
    articles: Annotated[
        str | None,
        typer.Option(help="wikipedia, a MediaWiki API's URL, or .jsonl with id, title, text.", rich_help_panel=SOURCES),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Q-ids of ParaRel's tuples by uuid: LAMA's .jsonl, or a folder.", rich_help_panel=SOURCES),
    ] = None,
    relation: Relations = None,
    language: Language = "en",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name; default: counterfact-embedded, else counterfact.")] = None,
    version: Annotated[str | None, typer.Option(help="Version; default: 2 if embedded, else by content.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="paper: as CounterFact was released; strict: one object a subject, prompts spread.",
            rich_help_panel=RECORDS,
        ),
    ] = "paper",
    pool: Annotated[
        int | None,
        typer.Option(
            help="Subjects of an object that prompts are drawn from; 0 for all. [preset]", rich_help_panel=RECORDS
        ),
    ] = None,
    pool_order: Annotated[
        str,
        typer.Option(
            help="Which subjects are in a pool: the first by Q-`id`, or by number of `sitelinks`.",
            rich_help_panel=RECORDS,
        ),
    ] = "id",
    fewest_neighbors: Annotated[
        int | None, typer.Option(help="Fewest subjects behind neighborhood prompts. [preset]", rich_help_panel=RECORDS)
    ] = None,
    several_objects: Annotated[
        str | None,
        typer.Option(help="Subjects with more than one object: keep or drop. [preset]", rich_help_panel=RECORDS),
    ] = None,
    implied_objects: Annotated[
        str | None,
        typer.Option(
            help="New objects that imply a true one or follow from it: exclude or allow. [preset]",
            rich_help_panel=RECORDS,
        ),
    ] = None,
    subject_kinds: Annotated[
        str | None,
        typer.Option(
            help="Subjects of a kind that the relation is not about: check, or any for all. [preset]",
            rich_help_panel=RECORDS,
        ),
    ] = None,
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
    ripples: Annotated[
        bool,
        typer.Option(
            "--ripples",
            help="Write ripples.jsonl too: what must follow from each edit, and stay.",
            rich_help_panel=RECORDS,
        ),
    ] = False,
    non_conflicting: Annotated[
        bool,
        typer.Option(
            "--non-conflicting",
            help="Only records that can all be edited at once; says how many.",
            rich_help_panel=RECORDS,
        ),
    ] = False,
    whole_articles: Annotated[
        bool,
        typer.Option(
            "--whole-articles",
            help="Reference texts are whole articles of Wikipedia: one a request.",
            rich_help_panel=RECORDS,
        ),
    ] = False,
    of: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Take this data set's records: with --non-conflicting, or into --language.",
            rich_help_panel=SOURCES,
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

    The same edits in French: `counterfact build --from datasets/counterfact --language fr --sparql slice-fr.nt.gz`
    """
    from counterfact.builders import counterfact, multi  # noqa: PLC0415
    from counterfact.builders.choosing.settings import BuildSettings  # noqa: PLC0415
    from counterfact.builders.languages import translation  # noqa: PLC0415
    from counterfact.builders.request_estimate import estimate_build  # noqa: PLC0415
    from counterfact.builders.sources.options import SourceOptions  # noqa: PLC0415

    if of is not None and non_conflicting:
        _print_report(multi.build(out, of, name=name, **({"version": version} if version else {})))
        return
    sources: dict[str, Any] = {
        "sparql": sparql,
        "pararel": pararel,
        "templates": templates,
        "prompts": prompts,
        "articles": articles,
        "texts": texts,
        "ids": ids,
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
        "subject_kinds": subject_kinds,
    }
    if of is not None:
        if language == "en":
            raise BadInput("--from takes a data set's records; say what for: --non-conflicting, or --language CODE")
        options = SourceOptions(**sources, language=language)
        report = translation.build(out, of, language, options=options, name=name, version=version, seed=seed)
        _print_report(report)
        return
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
        "ripples": ripples,
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
    version: Annotated[str | None, typer.Option(help="Version; default: 1 if embedded, else by content.")] = None,
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


def _print_spread(report: "BuildReport") -> None:
    """Print how far prompts about other subjects are spread, beside what pools predict and beside the paper's."""
    from counterfact.builders.choosing.expectation import PAPER  # noqa: PLC0415

    rows: list[Sequence[str]] = []
    for kind, paper in PAPER.items():
        for (what, found), known in zip(report.meta["counts"]["spread"][kind].items(), paper, strict=True):
            values = (*found.values(), known)
            rows.append((f"{kind}: {what.replace('_', ' ')}", *map(_spread_cell, values)))
    print_table(("", "this build", "its pools predict", "CounterFact"), rows, title="prompts about other subjects")


def _spread_cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _print_report(report: "BuildReport") -> None:
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} record{'' if report.records == 1 else 's'}", style="bold")
    if dropped := report.meta["counts"].get("dropped"):
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    if ripples := report.meta.get("ripples"):
        made = {name: count["prompts"] for name, count in ripples.items() if isinstance(count, dict)}
        console.print("ripples: " + ", ".join(f"{number:,} {name}" for name, number in made.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
