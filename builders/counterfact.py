"""Builds CounterFact: ParaRel's tuples and templates, a source of facts and articles become a folder of records.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262. The stages, each a function of the one before: `pararel` reads the tuples,
`knowledge` asks the source for their facts, `choices` makes drafts of records, then the drafts are put in a seeded
order and numbered, `reference_texts` finds the texts of their new objects, `output` writes the folder.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from builders.articles import ArticleSource, LocalArticles
from builders.choices import Chooser, Draft, RecordSettings
from builders.contexts import Contexts
from builders.generation_prompts import generation_files, load_generation_prompts
from builders.knowledge import Knowledge, gather
from builders.output import content_hash, environment, finished_build, work_folder, write_build
from builders.pararel import Relation, load_pararel, pararel_files, relation_number
from builders.reference_texts import reference_entries, sample_subjects
from builders.statistics import stats_json
from builders.wikidata import SparqlSource, StoreSource, hash_files
from core.errors import BadInput
from core.files import hash_file, hash_json, read_json
from core.places import data_folder
from core.records import CounterFactRecord
from core.seeds import derive_seed

Progress = Callable[[str, int, int], None]
"""Told the stage, and how much of it is done out of how much."""


class BuildSettings(RecordSettings):
    """What is built."""

    name: str = "counterfact-embedded"
    """Name of the data set."""
    version: str = "1"
    """Version of the data set."""
    relations: list[str] | None = None
    """Relations to build; by default all that have tuples."""
    reference_texts: int = Field(default=25, ge=0)
    """Reference texts for an object, at most."""


@dataclass(frozen=True)
class Sources:
    """Where a data set comes from."""

    pararel: Path
    """A folder in ParaRel's layout."""
    facts: SparqlSource
    generation: Path
    """A folder of generation prompts."""
    articles: ArticleSource | None
    """Reference texts and contexts; None for neither."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    path: Path
    records: int
    meta: dict[str, Any]
    """The content of `build.json`."""
    stats: dict[str, Any]
    """The content of `stats.json`."""
    reused: bool
    """Whether the folder held just this build already."""


@dataclass(frozen=True)
class _Made:
    """What the stages gave."""

    records: list[dict[str, Any]]
    references: list[dict[str, Any]]
    stats: dict[str, Any]
    relations: dict[str, Any]
    without_references: int


def embedded_sources() -> Sources:
    """Return the sources that ship with this repository."""
    data = data_folder()
    return Sources(
        pararel=data / "pararel",
        facts=StoreSource.open(data / "wikidata"),
        generation=data / "prompts" / "generation",
        articles=LocalArticles.open(data / "articles"),
    )


def build_counterfact(
    sources: Sources, settings: BuildSettings, out: Path, progress: Progress | None = None
) -> BuildReport:
    """Build a data set.

    The records are a function of the sources' content and the settings. Every choice derives from the seed and the
    tuple it is made for, so that a further tuple of ParaRel leaves the records of all others as they are, but for
    their case ids, and for those whose new object it draws to itself. A build that was killed goes on where it was
    when run again; one that is there already is left as it is, and an older one is replaced.

    Args:
        sources: where it comes from.
        settings: what is built.
        out: a folder, to be made; it gets `records.jsonl`, `reference_texts.jsonl`, `stats.json`, `build.json`.
        progress: is told how far the build is.

    Raises:
        BadInput: a source is missing or malformed, `out` holds something else, or nothing could be built.
        SourceError: the source of facts could not answer.
    """
    started = time.perf_counter()
    tell = progress or (lambda _stage, _done, _total: None)
    if settings.paraphrase_context == "articles" and sources.articles is None:
        raise BadInput("paraphrase_context is `articles`, but there are none: give articles, or set it to `none`")
    described = describe_sources(sources)
    fingerprint = hash_json([described, settings.model_dump(), _code_hash()])
    if (meta := finished_build(out, fingerprint)) is not None and described["facts"].get("files"):
        return BuildReport(out, meta["counts"]["records"], meta, read_json(out / "stats.json"), reused=True)
    work = work_folder(out, fingerprint)
    made = _make(sources, settings, tell)
    meta = {
        "schema": 1,
        "name": settings.name,
        "version": settings.version,
        "kind": "counterfact",
        "content_hash": content_hash(made.records),
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "sources": describe_sources(sources),
        "counts": _totals(made),
        "relations": made.relations,
        "environment": environment(fingerprint, time.perf_counter() - started, _places(sources)),
    }
    files = {"records.jsonl": made.records, "reference_texts.jsonl": made.references, "stats.json": made.stats}
    write_build(out, work, files, meta)
    return BuildReport(out, len(made.records), meta, made.stats, reused=False)


def describe_sources(sources: Sources) -> dict[str, Any]:
    """Return names and hashes of everything a build reads."""
    articles = sources.articles
    return {
        "pararel": {name: hash_file(file) for name, file in pararel_files(sources.pararel).items()},
        "facts": sources.facts.identity(),
        "generation_prompts": hash_files(generation_files(sources.generation)),
        "articles": None if articles is None else articles.identity(),
    }


def number(drafts: Sequence[Draft], settings: RecordSettings) -> list[CounterFactRecord]:
    """Put drafts in a seeded order and give each its place as case id, so that any prefix is a random sample."""

    def place(draft: Draft) -> tuple[int, str]:
        return derive_seed(settings.seed, "order", draft.fact.relation, draft.fact.uuid), draft.fact.uuid

    ordered = sorted(drafts, key=place)
    return [draft.record(case_id, settings.paraphrase_context) for case_id, draft in enumerate(ordered)]


def _make(sources: Sources, settings: BuildSettings, tell: Progress) -> _Made:
    relations = _wanted(load_pararel(sources.pararel), settings.relations)
    known = _gather_all(relations, sources.facts, tell)
    drafts, counts = _choose_all(relations, known, sources, settings, tell)
    if not drafts:
        reasons = {relation: count["dropped"] for relation, count in counts.items()}
        raise BadInput(f"no tuple gave a record; the reasons, by relation: {reasons}")
    records = number(drafts, settings)
    references = _references(drafts, known, sources, settings, tell)
    with_texts = {(entry["relation_id"], entry["target_id"]) for entry in references}
    return _Made(
        records=[record.model_dump(by_alias=True) for record in records],
        references=references,
        stats=stats_json(records),
        relations=counts,
        without_references=sum((draft.fact.relation, draft.new.id) not in with_texts for draft in drafts),
    )


def _wanted(relations: list[Relation], names: list[str] | None) -> list[Relation]:
    if names is None:
        return relations
    known = {relation.id: relation for relation in relations}
    if missing := sorted(set(names) - set(known)):
        raise BadInput(f"no tuples of {', '.join(missing)}. Known relations: {', '.join(known)}")
    return [relation for relation in relations if relation.id in names]


def _gather_all(relations: list[Relation], facts: SparqlSource, tell: Progress) -> dict[str, Knowledge]:
    known = {}
    for done, relation in enumerate(relations, 1):
        known[relation.id] = gather(relation, facts)
        tell("facts", done, len(relations))
    return known


def _choose_all(
    relations: list[Relation],
    known: dict[str, Knowledge],
    sources: Sources,
    settings: BuildSettings,
    tell: Progress,
) -> tuple[list[Draft], dict[str, Any]]:
    generation = load_generation_prompts(sources.generation) if settings.generation_prompts else {}
    with_context = settings.paraphrase_context == "articles" and sources.articles is not None
    contexts = Contexts(sources.articles.sentences if with_context and sources.articles else None)
    drafts: list[Draft] = []
    per_relation: dict[str, Any] = {}
    for done, relation in enumerate(relations, 1):
        chooser = Chooser(relation, known[relation.id], generation.get(relation.id, ()), contexts, settings)
        made, dropped = chooser.drafts()
        drafts += made
        per_relation[relation.id] = {
            "tuples": len(relation.tuples),
            "records": len(made),
            "dropped": dict(sorted(dropped.items())),
            "templates": len(relation.templates),
            "patterns": relation.outcomes,
            "facts": known[relation.id].counts,
        }
        tell("records", done, len(relations))
    return drafts, per_relation


def _references(
    drafts: Sequence[Draft], known: dict[str, Knowledge], sources: Sources, settings: BuildSettings, tell: Progress
) -> list[dict[str, Any]]:
    if sources.articles is None or not settings.reference_texts:
        return []
    keys = sorted(
        {(draft.fact.relation, draft.new.id) for draft in drafts}, key=lambda key: tuple(map(relation_number, key))
    )
    wanted = (
        (
            relation,
            id,
            sample_subjects(known[relation].holders[id], relation, id, settings.reference_texts, settings.seed),
        )
        for relation, id in keys
    )
    return reference_entries(
        wanted,
        settings.reference_texts,
        sources.facts,
        sources.articles,
        lambda done: tell("reference texts", done, len(keys)),
    )


def _totals(made: _Made) -> dict[str, Any]:
    totals: dict[str, Counter[str]] = {"dropped": Counter(), "patterns": Counter(), "facts": Counter()}
    for counts in made.relations.values():
        for kind, total in totals.items():
            total.update(counts[kind])
    return {
        "tuples": sum(counts["tuples"] for counts in made.relations.values()),
        "records": len(made.records),
        "relations": sum(counts["records"] > 0 for counts in made.relations.values()),
        **{kind: dict(sorted(total.items())) for kind, total in totals.items()},
        "reference_texts": sum(len(entry["samples"]) for entry in made.references),
        "records_without_reference_texts": made.without_references,
    }


def _places(sources: Sources) -> dict[str, str]:
    return {"pararel": str(sources.pararel), "generation_prompts": str(sources.generation)}


def _code_hash() -> str:
    return hash_json(hash_files(sorted(Path(__file__).parent.glob("*.py"))))
