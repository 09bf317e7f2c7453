"""`counterfact build` and `zsre`: make data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli._common import Limit, Seed, console, progress_bar
from core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builders.client import Client
    from builders.counterfact import BuildReport, BuildSettings
    from builders.sources import Named
    from builders.statistics import Count


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("build")(build)
    app.command("zsre")(zsre)


def build(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("datasets/counterfact"),
    sparql: Annotated[
        str | None, typer.Option(help="Facts: wdqs, qlever, an endpoint's URL, or .nt/.ttl/.tsv file(s).")
    ] = None,
    pararel: Annotated[
        str | None, typer.Option(help="ParaRel: upstream, a URL, or a folder; default: embedded, upstream if live.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A folder of generation prompts, P*.txt.")] = None,
    articles: Annotated[
        str | None, typer.Option(help="wikipedia, a MediaWiki API's URL, or .jsonl with id, title, text.")
    ] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Only this relation; may be repeated.")] = None,
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name; default: counterfact-embedded, counterfact if live.")] = None,
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
    context: Annotated[
        str, typer.Option(help="Before paraphrase prompts: `articles` (a sentence) or `none`.")
    ] = "articles",
    contact: Annotated[
        str | None, typer.Option(help="Your e-mail or page, for the User-Agent; also COUNTERFACT_CONTACT.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where servers' answers are kept; default: one for all.")] = None,
    replay: Annotated[bool, typer.Option(help="Ask nobody: take all answers from the cache.")] = False,
    pack: Annotated[Path | None, typer.Option(help="Afterwards, put the answers used into this one file.")] = None,
    pause: Annotated[float, typer.Option(help="Seconds between an answer and the next question.", min=0.0)] = 1.0,
    plan: Annotated[bool, typer.Option(help="Only say how many questions a live build asks.")] = False,
) -> None:
    """Build CounterFact from ParaRel templates and WikiData facts; by default from the embedded world.

    Example: `counterfact build --sparql wdqs --contact you@example.org --out datasets/counterfact-live`
    """
    from builders.counterfact import BuildSettings, build_counterfact  # noqa: PLC0415
    from builders.sources import Named  # noqa: PLC0415

    named = Named(sparql, pararel, articles, prompts, contact, cache, replay, pause)
    values = {
        "seed": seed,
        "name": name or ("counterfact" if named.live else "counterfact-embedded"),
        "version": version,
        "relations": relation,
        "paraphrase_context": context,
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
        _print_answers(opened.client, pack)


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
    from builders.zsre import build_zsre  # noqa: PLC0415
    from core.places import data_folder  # noqa: PLC0415

    given = source or data_folder() / "zsre" / "eval.json"
    report = build_zsre(given, out, limit, name or ("zsre" if source else "zsre-embedded"), version)
    _print_report(report)


def statistics_table(counts: "Sequence[Count]", title: str, paper: "Sequence[Count]" = ()) -> Table:
    """Return the paper's Table 2 for a data set, its own figures beside on request."""
    table = Table(title=title, title_justify="left")
    table.add_column("item", no_wrap=True)
    for head in ("total", "per relation", "per record"):
        table.add_column(head, justify="right")
    known = {count.item: count for count in paper}
    if paper:
        table.add_column("paper, total", justify="right")
    for count in counts:
        beside = [f"{known[count.item].total:,}" if count.item in known else "–"] if paper else []
        table.add_row(count.item, f"{count.total:,}", f"{count.per_relation:,.1f}", f"{count.per_record:.2f}", *beside)
    return table


def _print_answers(client: "Client", pack: Path | None) -> None:
    keys = client.used_keys()
    old = len(keys) - client.stored
    console.print(
        f"answers of servers: {client.stored:,} new, {old:,} from {client.cache.path}, the oldest of "
        f"{client.oldest()}; requests sent: {client.sent:,}. For fresh answers, name a new --cache",
        style="dim",
    )
    if pack:
        client.cache.pack(pack, keys)
        console.print(f"{pack}: all {len(keys):,} answers; build from it with --replay --cache {pack}")


def _print_plan(named: "Named", settings: "BuildSettings") -> None:
    from builders.pararel import load_pararel  # noqa: PLC0415
    from builders.plan import plan_build  # noqa: PLC0415
    from builders.upstream import FILES  # noqa: PLC0415

    place = named.open_pararel()
    relations = [
        relation for relation in load_pararel(place) if settings.relations is None or relation.id in settings.relations
    ]
    costs = plan_build(relations, settings.reference_texts, named.pause, FILES if named.fetches_pararel else 0)
    table = Table(title="requests of a live build, when nothing fails", title_justify="left")
    table.add_column("what is asked for")
    table.add_column("requests", justify="right")
    table.add_column("known")
    table.add_column("hours", justify="right")
    for cost in costs:
        table.add_row(cost.kind, f"{cost.requests:,}", cost.basis, f"{cost.hours:.2f}")
    table.add_row("in all", f"{sum(cost.requests for cost in costs):,}", "", f"{sum(cost.hours for cost in costs):.2f}")
    console.print(table)


def _print_report(report: "BuildReport") -> None:
    counts: Mapping[str, object] = report.meta["counts"]
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    dropped = counts.get("dropped")
    if isinstance(dropped, dict) and dropped:
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
