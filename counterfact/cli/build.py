"""`counterfact build` and `zsre`: make data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from counterfact.cli._common import Limit, Seed, console, progress_bar
from counterfact.cli._sources import Cache, Contact, Language, Pararel, Pause, Relations, Replay, Sparql, print_answers
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from counterfact.builders.counterfact import BuildReport, BuildSettings
    from counterfact.builders.sources.options import Named


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("build")(build)
    app.command("zsre")(zsre)


def build(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("datasets/counterfact"),
    sparql: Sparql = None,
    pararel: Pararel = None,
    templates: Annotated[
        Path | None, typer.Option(help="ParaRel's layout; its templates top up relations with too few.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A folder of generation prompts, P*.txt.")] = None,
    articles: Annotated[
        str | None, typer.Option(help="wikipedia, a MediaWiki API's URL, or .jsonl with id, title, text.")
    ] = None,
    relation: Relations = None,
    language: Language = "en",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name; default: counterfact-embedded, counterfact if live.")] = None,
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
    context: Annotated[
        str, typer.Option(help="Before paraphrase prompts: a sentence of the `articles` or of `texts`, or `none`.")
    ] = "articles",
    texts: Annotated[str | None, typer.Option(help="Texts for --context texts: .txt, .jsonl, folder, Hub id.")] = None,
    paraphrases: Annotated[int, typer.Option(help="Paraphrase prompts a record.")] = 2,
    neighbors: Annotated[int, typer.Option(help="Neighborhood prompts a record.")] = 10,
    attributes: Annotated[int, typer.Option(help="Attribute prompts a record.")] = 10,
    generations: Annotated[int, typer.Option(help="Generation prompts a record.")] = 10,
    references: Annotated[int, typer.Option(help="Reference texts a new object, at most; 0 for none.")] = 25,
    sitelinks: Annotated[int, typer.Option(help="Only subjects with this many sitelinks or more.")] = 0,
    non_conflicting: Annotated[
        bool, typer.Option("--non-conflicting", help="As MultiCounterFact: all edits can be made at once.")
    ] = False,
    plus: Annotated[
        bool, typer.Option("--plus", help="As CounterFact+: the edited fact stands before neighborhood prompts.")
    ] = False,
    contact: Contact = None,
    cache: Cache = None,
    replay: Replay = False,
    pack: Annotated[Path | None, typer.Option(help="Afterwards, put the answers used into this one file.")] = None,
    pause: Pause = 1.0,
    plan: Annotated[bool, typer.Option(help="Only say how many questions a live build asks.")] = False,
) -> None:
    """Build CounterFact from ParaRel templates and WikiData facts; by default from the embedded world.

    Example: `counterfact build --sparql wdqs --contact you@example.org --out datasets/counterfact-live`
    """
    from counterfact.builders.counterfact import BuildSettings, build_counterfact  # noqa: PLC0415
    from counterfact.builders.sources.options import Named  # noqa: PLC0415

    named = Named(sparql, pararel, articles, prompts, templates, texts, contact, cache, replay, pause, language)
    values = {
        "seed": seed,
        "name": name or ("counterfact" if named.live else "counterfact-embedded"),
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
        "neighborhood_context": "edited fact" if plus else "none",
    }
    settings = BuildSettings.check(values, "counterfact build")
    if plan:
        _print_plan(named, settings)
        return
    opened = named.open()
    if pack and opened.client is None:
        raise BadInput("--pack: nothing of this build comes from a server; it can be built anywhere as it is")
    with progress_bar("building") as advance:
        report = build_counterfact(opened.sources, settings, out, advance)
    _print_report(report)
    if opened.client is not None:
        print_answers(opened.client)
        if pack:
            keys = opened.client.used_keys()
            opened.client.cache.pack(pack, keys)
            console.print(f"{pack}: all {len(keys):,} answers; build from it with --replay --cache {pack}")


def zsre(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("datasets/zsre"),
    source: Annotated[Path | None, typer.Option(help="zsre_mend_eval.json or alike; default: embedded.")] = None,
    limit: Limit = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
) -> None:
    """Make a data set of a zsRE split in MEND's format; by default of the embedded one.

    Example: `counterfact zsre --source zsre_mend_eval.json --limit 10000 --out datasets/zsre`
    """
    from counterfact.builders.zsre import build_zsre  # noqa: PLC0415
    from counterfact.core.places import data_folder  # noqa: PLC0415

    given = source or data_folder() / "zsre" / "eval.json"
    report = build_zsre(given, out, limit, name or ("zsre" if source else "zsre-embedded"), version)
    _print_report(report)


def _print_plan(named: "Named", settings: "BuildSettings") -> None:
    from counterfact.builders.sources.pararel_download import FILES  # noqa: PLC0415
    from counterfact.builders.sources.request_estimate import one_by_one, plan_build  # noqa: PLC0415

    needed = named.needed_relations(settings)
    given = (needed, settings.reference_texts, named.pause, FILES if named.fetches_pararel else 0)
    costs, others = plan_build(*given), one_by_one(*given)
    table = Table(title="requests of a live build, when nothing fails", title_justify="left")
    table.add_column("what is asked for")
    table.add_column("requests", justify="right")
    table.add_column("known")
    table.add_column("hours", justify="right")
    for cost in costs:
        table.add_row(cost.kind, f"{cost.requests:,}", cost.basis, f"{cost.hours:.2f}")
    for said, all_costs in ((f"in all, {len(needed)} relations", costs), ("one by one, for comparison", others)):
        hours = sum(cost.hours for cost in all_costs)
        table.add_row(said, f"{sum(cost.requests for cost in all_costs):,}", "", f"{hours:.2f}")
    console.print(table)


def _print_report(report: "BuildReport") -> None:
    counts: Mapping[str, object] = report.meta["counts"]
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    dropped = counts.get("dropped")
    if isinstance(dropped, dict) and dropped:
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
