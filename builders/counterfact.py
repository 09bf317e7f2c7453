"""Builds CounterFact: ParaRel's tuples and templates, a source of facts and articles become a folder of records.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262. The stages, each a function of the one before: `sources.pararel` reads the tuples,
`sources.knowledge` queries their facts, `choosing.selection` makes candidates for records, which are then put in a
seeded order and numbered, `texts.reference_texts` finds the texts of their new objects, `build_folder` writes the
folder.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json
from counterfact.core.places import data_folder
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .audit.statistics import stats_json
from .build_folder import VERSION, BuildReport, finished_build, write_build
from .choosing.candidates import Candidate, DroppedTuple, in_seeded_order
from .choosing.conflicts import without_conflicts
from .choosing.counts import relation_counts, totals
from .choosing.sampling import sample_subjects
from .choosing.selection import RecordSelector, relations_to_query
from .choosing.settings import BuildSettings
from .choosing.surroundings import Surroundings, query_surroundings
from .code import code_behind
from .languages.grammar import load_grammar
from .ripples.relations import load_relations_in_words
from .ripples.writing import Ripples, ripples_of
from .sources.articles import Passage
from .sources.entity_ids import read_entity_ids, with_ids
from .sources.knowledge import Knowledge, query_knowledge
from .sources.local_store import check_language
from .sources.opened import Sources
from .sources.options import SourceOptions
from .sources.pararel import Relation, load_relations, relation_number
from .sources.subject_kinds import subject_kinds_file
from .texts.contexts import Contexts, sentences_of
from .texts.generation_prompts import load_generation_prompts
from .texts.reference_texts import reference_entries

EMBEDDED = "counterfact-embedded"
Progress = Callable[[str, int, int], None]
"""Function that is told the stage, and how much of it is done out of how much."""
Prompts = Mapping[str, Sequence[str]]
"""Relation to its generation prompts."""


def build(
    out: str | Path,
    *,
    sparql: str | Path | None = None,
    pararel: str | Path | None = None,
    templates: str | Path | None = None,
    prompts: str | Path | None = None,
    articles: str | Path | None = None,
    texts: str | Path | None = None,
    ids: str | Path | None = None,
    contact: str | None = None,
    cache: str | Path | None = None,
    replay: bool = False,
    pause: float = SourceOptions.pause,
    whole_articles: bool = False,
    pack: str | Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> BuildReport:
    """Build CounterFact, by default from the embedded world: `build("datasets/counterfact", seed=1)`.

    Args:
        out: folder to be made; see `build_from_sources`.
        sparql: facts: `wdqs`, `qlever`, the address of an endpoint, or files.
        pararel: ParaRel: `upstream`, an address, or a folder.
        templates: folder in ParaRel's layout, whose templates top up relations with too few; by default those that
            ship with the toolkit, unless `own_templates` is false (as in the preset `strict`).
        prompts: folder of generation prompts.
        articles: `wikipedia`, the address of a MediaWiki API, or files.
        texts: texts for `paraphrase_context="texts"`, as `core.texts.load_texts` takes them.
        ids: table of the Q-ids that tuples mean, by their uuids, in LAMA's form: a file, or a folder of them.
        contact: e-mail address or page of the user, which live services require; by default `COUNTERFACT_CONTACT`.
        cache: file in which responses of servers are kept; by default one for all builds.
        replay: whether to take all responses from the cache, and send nothing.
        pause: seconds between a response and the next request.
        whole_articles: whether reference texts are whole articles, as in the released data, and not their openings.
        pack: file into which the responses used are copied afterwards, so that `replay` works from it elsewhere.
        name: name of the data set; by default `counterfact-embedded` where all of it comes from the embedded world,
            which no other may be called, else `counterfact`; with `-strict` after it in that preset, and `-multi`
            where no two records contradict each other.
        progress: function that is told how far the build is.
        settings: fields of `BuildSettings`, such as `seed`, `relations` and `language`.

    Raises:
        BadInput: an option or a source is wrong, `out` holds something else, or nothing could be built.
        SourceError: a server could not answer; the same call continues where it stopped.
    """
    language = settings.get("language", "en")
    options = SourceOptions(
        sparql,
        pararel,
        articles,
        prompts,
        templates,
        texts,
        contact,
        cache,
        replay,
        pause,
        language,
        ids,
        whole_articles,
    )
    kind = "-strict" * (settings.get("preset") == "strict") + "-multi" * bool(settings.get("non_conflicting"))
    settings["name"] = name or (EMBEDDED if options.embedded else "counterfact") + kind
    checked = BuildSettings.check(settings, "counterfact build")
    options = options.topped_up() if checked.own_templates else options
    context = checked.paraphrase_context
    if texts and context != "texts":
        raise BadInput("--texts: only read with --context texts (paraphrase_context)")
    needs_articles = context == "articles" or checked.reference_texts > 0
    sources = options.open(articles=needs_articles, texts=context == "texts")
    if pack and sources.client is None:
        raise BadInput("--pack: nothing of this build comes from a server; it can be built anywhere as it is")
    report = build_from_sources(sources, checked, Path(out), progress)
    if sources.client is None:
        return report
    packed = sources.client.pack(Path(pack)) if pack else None
    return replace(report, responses=sources.client.counts(), packed=packed)


def build_from_sources(
    sources: Sources, settings: BuildSettings, out: Path, progress: Progress | None = None
) -> BuildReport:
    """Build a data set from sources that are open.

    The records are a function of the sources' content and the settings. Every choice derives from the seed and the
    tuple it is made for, so that a further tuple of ParaRel leaves the records of all others as they are, but for
    their case ids, and for those whose new object it draws to itself. A build that was killed continues where it was
    when run again; one that is there already is left as it is, and an older one is replaced.

    Args:
        sources: where it comes from.
        settings: options of the build.
        out: folder to be made; it gets `records.jsonl`, `reference_texts.jsonl`, `stats.json`, `build.json`, and
            `dropped.jsonl`, the tuples that gave no record, each with the reason; with `ripples` also `ripples.jsonl`.
        progress: function that is told how far the build is.

    Raises:
        BadInput: a source is missing or malformed, `out` holds something else, or nothing could be built.
        SourceError: the source of facts could not answer.
    """
    started = time.perf_counter()
    tell = progress or (lambda _stage, _done, _total: None)
    _check_contexts(sources, settings)
    if settings.name.startswith(EMBEDDED) and not sources.embedded:
        raise BadInput(f"{settings.name} is the name of what the embedded world gives; choose another: --name")
    standard = sources.embedded and settings.name.startswith(EMBEDDED) and settings.as_preset
    sources = sources.in_language(settings.language)
    check_language(sources.facts, settings.language)
    described = sources.described()
    table = hash_file(subject_kinds_file())
    fingerprint = hash_json([described, settings.model_dump(), code_behind(__name__), table])
    finished = finished_build(out, fingerprint)
    if finished is not None and described["facts"].get("files"):
        return finished
    fewest = 1 + settings.paraphrase_prompts
    relations = load_relations(
        sources.pararel, sources.templates, settings.language, settings.relations, fewest, settings.cutting
    )
    generation = load_generation_prompts(sources.generation) if settings.generation_prompts else {}
    relations = with_ids(relations, read_entity_ids(sources.ids)) if sources.ids else relations
    known = _query_facts(relations, generation, sources, settings, tell)
    around = query_surroundings(known, settings, sources.facts)
    candidates, dropped = _select(relations, known, around, generation, sources, settings, tell)
    counts = {
        one.id: relation_counts(one, known[one.id], candidates, dropped, settings, around.kinds.get(one.id))
        for one in relations
    }
    if not candidates:
        reasons = {relation: count["dropped"] for relation, count in counts.items()}
        raise BadInput(f"no tuple gave a record; the reasons, by relation: {reasons}")
    records = [candidate.record(case_id, settings) for case_id, candidate in enumerate(candidates)]
    references = _references(candidates, known, sources, settings, tell)
    files = {
        "records.jsonl": [record.model_dump(by_alias=True) for record in records],
        "reference_texts.jsonl": references,
        "dropped.jsonl": [one.to_json() for one in dropped],
        "stats.json": stats_json(records),
    }
    meta = {
        "name": settings.name,
        "version": settings.version or (VERSION if standard else None),
        "kind": "counterfact",
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "sources": sources.described(),
        "counts": totals(counts, candidates, references),
        "relations": counts,
    }
    if settings.ripples:
        tell("ripples", 0, len(records))
        ripples = _ripples(records, sources, settings)
        files["ripples.jsonl"] = ripples.lines
        meta["ripples"] = ripples.counts
    places = {"pararel": str(sources.pararel), "generation_prompts": str(sources.generation)}
    return write_build(out, fingerprint, files, meta, started=started, places=places)


def _ripples(records: Sequence[CounterFactRecord], sources: Sources, settings: BuildSettings) -> Ripples:
    grammar = load_grammar(data_folder() / "languages", settings.language)
    relations = load_relations_in_words(data_folder() / "relations", settings.language, grammar)
    most, seed = settings.ripple_prompts, settings.seed
    return ripples_of(records, sources.facts, relations, language=settings.language, most=most, seed=seed)


def _check_contexts(sources: Sources, settings: BuildSettings) -> None:
    context = settings.paraphrase_context
    if context != "none" and getattr(sources, context) is None:
        raise BadInput(f"paraphrase_context is `{context}`, but there are none: give {context}, or set it to `none`")
    if context == "articles" and sources.articles is not None and not sources.articles.sentences:
        raise BadInput(
            f"paraphrase_context is `articles`, but no sentences in {settings.language} ship with it: give texts of "
            "your own (--context texts --texts FILE), or set it to `none` (--context none)"
        )


def _query_facts(
    relations: list[Relation], generation: Prompts, sources: Sources, settings: BuildSettings, tell: Progress
) -> dict[str, Knowledge]:
    known = {relation.id: Knowledge({}, {}, {}, {}) for relation in relations}
    queried = relations_to_query(relations, generation, settings)
    for done, relation in enumerate(queried, 1):
        known[relation.id] = query_knowledge(relation, sources.facts, settings.language)
        tell("facts", done, len(queried))
    return known


def _select(
    relations: list[Relation],
    known: dict[str, Knowledge],
    around: Surroundings,
    generation: Prompts,
    sources: Sources,
    settings: BuildSettings,
    tell: Progress,
) -> tuple[list[Candidate], list[DroppedTuple]]:
    """Return candidates in the order of their case ids, and the tuples that gave none."""
    contexts = Contexts(_sentences(sources, settings), settings.longest_context)
    candidates: list[Candidate] = []
    dropped: list[DroppedTuple] = []
    for done, relation in enumerate(relations, 1):
        prompts = generation.get(relation.id, ())
        other_kind = around.of_another_kind(relation.id)
        selector = RecordSelector(
            relation, known[relation.id], prompts, contexts, settings, around.sitelinks, around.implied, other_kind
        )
        selected, left_out = selector.candidates()
        candidates += selected
        dropped += left_out
        tell("records", done, len(relations))
    candidates = in_seeded_order(candidates, settings.seed)
    if settings.non_conflicting:
        candidates, conflicting = without_conflicts(candidates, lambda candidate: candidate.claim)
        dropped += [DroppedTuple(candidate.fact, conflict) for candidate, conflict in conflicting]
    return candidates, dropped


def _sentences(sources: Sources, settings: BuildSettings) -> Sequence[Passage] | None:
    if settings.paraphrase_context == "articles" and sources.articles is not None:
        return sources.articles.sentences
    if settings.paraphrase_context == "texts" and sources.texts is not None:
        return sentences_of(sources.texts)
    return None


def _references(
    candidates: Sequence[Candidate],
    known: dict[str, Knowledge],
    sources: Sources,
    settings: BuildSettings,
    tell: Progress,
) -> list[dict[str, Any]]:
    count = settings.reference_texts
    if sources.articles is None or not count:
        return []
    keys = sorted(
        {(candidate.fact.relation, candidate.new.id) for candidate in candidates},
        key=lambda key: tuple(map(relation_number, key)),
    )
    wanted = (
        (relation, id, sample_subjects(known[relation].holders[id], relation, id, count, settings.seed))
        for relation, id in keys
    )
    return reference_entries(
        wanted, count, sources.facts, sources.articles, lambda done: tell("reference texts", done, len(keys))
    )
