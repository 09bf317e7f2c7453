"""Builds CounterFact: ParaRel's tuples and templates, a source of facts and articles become a folder of records.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262. The stages, each a function of the one before: `pararel` reads the tuples,
`knowledge` asks the source for their facts, `choices` makes drafts of records, then the drafts are put in a seeded
order and numbered, `reference_texts` finds the texts of their new objects, `output` writes the folder.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json
from counterfact.core.places import data_folder
from counterfact.core.texts import TextSource

from .audit.statistics import stats_json
from .build_folder import content_hash, environment, finished_build, work_folder, write_build
from .choosing.candidates import Draft, Dropped, RecordSettings
from .choosing.counts import relation_counts, totals
from .choosing.selection import Chooser
from .choosing.variants import in_order, without_conflicts
from .sources.articles import ArticleSource, LocalArticles, Sentence
from .sources.knowledge import Knowledge, gather
from .sources.pararel import Relation, language_folder, pararel_files, relation_number
from .sources.popularity import sitelinks_of_all
from .sources.relations import load_relations, needed
from .sources.sparql import SparqlSource, StoreSource, hash_files
from .texts.contexts import Contexts, sentences_of
from .texts.generation_prompts import generation_files, load_generation_prompts
from .texts.reference_texts import reference_entries, sample_subjects

Progress = Callable[[str, int, int], None]
"""Told the stage, and how much of it is done out of how much."""
Prompts = Mapping[str, Sequence[str]]
"""Relation to its generation prompts."""


class BuildSettings(RecordSettings):
    """What is built."""

    name: str = "counterfact-embedded"
    """Name of the data set."""
    version: str = "1"
    """Version of the data set."""
    language: str = "en"
    """Language of labels, templates and prompts, by its code."""
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
    templates: Path | None = None
    """A folder in ParaRel's layout, whose templates top up relations with too few in `pararel`, and records with too
    few neighborhood prompts."""
    texts: TextSource | None = None
    """Texts with sentences to put before paraphrase prompts, instead of the articles."""


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
    dropped: list[dict[str, str]]
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
        out: a folder, to be made; it gets `records.jsonl`, `reference_texts.jsonl`, `stats.json`, `build.json`, and
            `dropped.jsonl`, the tuples that gave no record, each with the reason.
        progress: is told how far the build is.

    Raises:
        BadInput: a source is missing or malformed, `out` holds something else, or nothing could be built.
        SourceError: the source of facts could not answer.
    """
    started = time.perf_counter()
    tell = progress or (lambda _stage, _done, _total: None)
    _check_contexts(sources, settings)
    sources = _in_language(sources, settings.language)
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
        "counts": totals(made.relations, made.references, made.without_references),
        "relations": made.relations,
        "environment": environment(fingerprint, time.perf_counter() - started, _places(sources)),
    }
    files = {
        "records.jsonl": made.records,
        "reference_texts.jsonl": made.references,
        "dropped.jsonl": made.dropped,
        "stats.json": made.stats,
    }
    write_build(out, work, files, meta)
    return BuildReport(out, len(made.records), meta, made.stats, reused=False)


def describe_sources(sources: Sources) -> dict[str, Any]:
    """Return names and hashes of everything a build reads."""
    articles = sources.articles
    return {
        "pararel": _hashes(sources.pararel),
        "facts": sources.facts.identity(),
        "generation_prompts": hash_files(generation_files(sources.generation)),
        "articles": None if articles is None else articles.identity(),
        "templates": None if sources.templates is None else _hashes(sources.templates),
        "texts": None if sources.texts is None else {"name": sources.texts.name, "hash": sources.texts.content_hash},
    }


def _check_contexts(sources: Sources, settings: BuildSettings) -> None:
    context = settings.paraphrase_context
    if context != "none" and getattr(sources, context) is None:
        raise BadInput(f"paraphrase_context is `{context}`, but there are none: give {context}, or set it to `none`")
    if context == "articles" and sources.articles is not None and not sources.articles.sentences:
        raise BadInput(
            f"paraphrase_context is `articles`, but no sentences in {settings.language} ship with it: give texts of "
            "your own (--context texts --texts FILE), or set it to `none` (--context none)"
        )


def _make(sources: Sources, settings: BuildSettings, tell: Progress) -> _Made:
    fewest = 1 + settings.paraphrase_prompts
    relations = load_relations(sources.pararel, sources.templates, settings.language, settings.relations, fewest)
    generation = load_generation_prompts(sources.generation) if settings.generation_prompts else {}
    known = _gather_all(relations, generation, sources.facts, settings, tell)
    drafts, dropped = _choose_all(relations, known, generation, sources, settings, tell)
    drafts = in_order(drafts, settings.seed)
    if settings.non_conflicting:
        drafts, contradicting = without_conflicts(drafts)
        dropped += contradicting
    counts = {relation.id: relation_counts(relation, known[relation.id], drafts, dropped) for relation in relations}
    if not drafts:
        reasons = {relation: count["dropped"] for relation, count in counts.items()}
        raise BadInput(f"no tuple gave a record; the reasons, by relation: {reasons}")
    records = [draft.record(case_id, settings) for case_id, draft in enumerate(drafts)]
    references = _references(drafts, known, sources, settings, tell)
    with_texts = {(entry["relation_id"], entry["target_id"]) for entry in references}
    return _Made(
        records=[record.model_dump(by_alias=True) for record in records],
        references=references,
        dropped=[one.to_json() for one in dropped],
        stats=stats_json(records),
        relations=counts,
        without_references=sum((draft.fact.relation, draft.new.id) not in with_texts for draft in drafts),
    )


def _in_language(sources: Sources, language: str) -> Sources:
    return replace(
        sources,
        pararel=language_folder(sources.pararel, language),
        generation=language_folder(sources.generation, language),
        templates=sources.templates and language_folder(sources.templates, language),
    )


def _gather_all(
    relations: list[Relation], generation: Prompts, facts: SparqlSource, settings: BuildSettings, tell: Progress
) -> dict[str, Knowledge]:
    known = {relation.id: Knowledge({}, {}, {}, {}) for relation in relations}
    asked = needed(relations, generation, settings)
    for done, relation in enumerate(asked, 1):
        known[relation.id] = gather(relation, facts, settings.language)
        tell("facts", done, len(asked))
    return known


def _choose_all(
    relations: list[Relation],
    known: dict[str, Knowledge],
    generation: Prompts,
    sources: Sources,
    settings: BuildSettings,
    tell: Progress,
) -> tuple[list[Draft], list[Dropped]]:
    contexts = Contexts(_sentences(sources, settings))
    known_by = sitelinks_of_all(known, sources.facts) if settings.fewest_sitelinks else {}
    drafts: list[Draft] = []
    dropped: list[Dropped] = []
    for done, relation in enumerate(relations, 1):
        prompts = generation.get(relation.id, ())
        chooser = Chooser(relation, known[relation.id], prompts, contexts, settings, known_by)
        made, left_out = chooser.drafts()
        drafts += made
        dropped += left_out
        tell("records", done, len(relations))
    return drafts, dropped


def _sentences(sources: Sources, settings: RecordSettings) -> Sequence[Sentence] | None:
    if settings.paraphrase_context == "articles" and sources.articles is not None:
        return sources.articles.sentences
    if settings.paraphrase_context == "texts" and sources.texts is not None:
        return sentences_of(sources.texts)
    return None


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


def _hashes(pararel: Path) -> dict[str, str]:
    return {name: hash_file(file) for name, file in pararel_files(pararel).items()}


def _places(sources: Sources) -> dict[str, str]:
    return {"pararel": str(sources.pararel), "generation_prompts": str(sources.generation)}


def _code_hash() -> str:
    return hash_json(hash_files(sorted(Path(__file__).parent.rglob("*.py"))))
