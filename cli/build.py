"""`counterfact build` and `zsre`: make data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli._common import Limit, Seed, console, progress_bar
from core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builders.articles import ArticleSource
    from builders.counterfact import BuildReport
    from builders.wikidata import SparqlSource

AGENT = "counterfact-toolkit/0.1"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("build")(build)
    app.command("zsre")(zsre)


def build(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("datasets/counterfact"),
    pararel: Annotated[Path | None, typer.Option(help="A folder in ParaRel's layout; default: embedded.")] = None,
    sparql: Annotated[str | None, typer.Option(help="Facts: a URL of an endpoint, or .nt/.ttl/.tsv file(s).")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A folder of generation prompts, P*.txt.")] = None,
    articles: Annotated[Path | None, typer.Option(help="Articles, .jsonl with id, title, text.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Only this relation; may be repeated.")] = None,
    seed: Seed = 0,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "counterfact-embedded",
    version: Annotated[str, typer.Option(help="Version of the data set.")] = "1",
    context: Annotated[
        str, typer.Option(help="Before paraphrase prompts: a sentence of the `articles` or of `texts`, or `none`.")
    ] = "articles",
    texts: Annotated[str | None, typer.Option(help="Texts for --context texts: .txt, .jsonl, folder, Hub id.")] = None,
    templates: Annotated[
        Path | None, typer.Option(help="ParaRel's layout; its templates top up relations with too few.")
    ] = None,
    language: Annotated[str, typer.Option(help="Of labels and templates, by its code.")] = "en",
    paraphrases: Annotated[int, typer.Option(help="Paraphrase prompts a record.")] = 2,
    neighbors: Annotated[int, typer.Option(help="Neighborhood prompts a record.")] = 10,
    attributes: Annotated[int, typer.Option(help="Attribute prompts a record.")] = 10,
    generations: Annotated[int, typer.Option(help="Generation prompts a record.")] = 10,
    sitelinks: Annotated[int, typer.Option(help="Only subjects with this many sitelinks or more.")] = 0,
    non_conflicting: Annotated[
        bool, typer.Option("--non-conflicting", help="As MultiCounterFact: all edits can be made at once.")
    ] = False,
    plus: Annotated[
        bool, typer.Option("--plus", help="As CounterFact+: the edited fact stands before neighborhood prompts.")
    ] = False,
    contact: Annotated[str | None, typer.Option(help="Your e-mail or page, for the User-Agent of an endpoint.")] = None,
) -> None:
    """Build CounterFact from ParaRel templates and WikiData facts; by default from the embedded world.

    Example: `counterfact build --out datasets/counterfact --seed 0`
    """
    from builders.articles import LocalArticles  # noqa: PLC0415
    from builders.counterfact import BuildSettings, Sources, build_counterfact, embedded_sources  # noqa: PLC0415
    from core.texts import load_texts  # noqa: PLC0415

    embedded = embedded_sources()
    known: ArticleSource | None = LocalArticles.open(articles) if articles else embedded.articles
    sources = Sources(
        pararel=pararel or embedded.pararel,
        facts=open_facts(sparql, contact) if sparql else embedded.facts,
        generation=prompts or embedded.generation,
        articles=known,
        templates=templates,
        texts=load_texts(texts) if texts else None,
    )
    values = {
        "seed": seed,
        "name": name,
        "version": version,
        "relations": relation,
        "paraphrase_context": context,
        "language": language,
        "paraphrase_prompts": paraphrases,
        "neighborhood_prompts": neighbors,
        "attribute_prompts": attributes,
        "generation_prompts": generations,
        "fewest_sitelinks": sitelinks,
        "non_conflicting": non_conflicting,
        "neighborhood_context": "edited fact" if plus else "none",
    }
    settings = BuildSettings.check(values, "counterfact build")
    with progress_bar("building") as advance:
        report = build_counterfact(sources, settings, out, advance)
    _print_report(report)


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


def open_facts(sparql: str, contact: str | None) -> "SparqlSource":
    """Open files, or an endpoint, which wants a contact."""
    from builders.wikidata import EndpointSource, StoreSource  # noqa: PLC0415

    if not sparql.startswith(("http://", "https://")):
        return StoreSource.open(Path(sparql))
    if not contact:
        raise BadInput("an endpoint wants to know who asks: give --contact with an e-mail address or a page")
    return EndpointSource(sparql, f"{AGENT} ({contact})")


def _print_report(report: "BuildReport") -> None:
    counts: Mapping[str, object] = report.meta["counts"]
    said = "already there" if report.reused else "built"
    console.print(f"{report.path}: {said}, {report.records:,} records", style="bold")
    dropped = counts.get("dropped")
    if isinstance(dropped, dict) and dropped:
        console.print("dropped: " + ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()))
    console.print(f"sources, seed and all counts: {report.path / 'build.json'}", style="dim")
