"""Snapshots: the slice of a source of facts that a build needs, so that it can be repeated from the slice alone.

The slice holds what `knowledge` queries: the facts of the tuples' subjects, all subjects of their objects, and the
labels of both; with a site, the articles about them; with `sitelinks`, how well known the subjects are; and of the
subjects of some relations (`subject_kinds`), what they are.
"""

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from counterfact.core.errors import BadInput
from counterfact.core.files import write_atomic

from . import queries
from .batches import query_in_batches
from .client import ResponseCounts
from .knowledge import Knowledge, query_knowledge
from .ntriples import about_line, alias_line, fact_line, label_line, sitelinks_line
from .options import SourceOptions
from .pararel import Relation, language_folder, load_relations, relation_number
from .queries import entity_id
from .relation_queries import ENTITIES_A_QUERY
from .sparql import SparqlSource
from .subject_kinds import load_subject_kinds, query_kind_facts, subjects_to_ask
from .surroundings import count_sitelinks, query_above
from .truthy_dump import MOST, write_dump_slice

POOL = 20
"""Number of subjects in a pool by default."""
Progress = Callable[[str, int, int | None], None]
"""Function that is told the stage, how much of it is done, and out of how much where that is known."""


class SnapshotReport(NamedTuple):
    """What a snapshot holds."""

    path: Path
    counts: Mapping[str, int]
    """Kind of statement, or what else was counted, to its number."""
    responses: ResponseCounts | None
    """Where responses of servers came from; None where none was needed."""


def snapshot(
    out: Path,
    sources: SourceOptions,
    dump: Path | None = None,
    *,
    relations: Sequence[str] | None = None,
    site: str | None = None,
    sitelinks: bool = False,
    pool: int = POOL,
    most: int = MOST,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SnapshotReport:
    """Write the facts, labels and articles that a build needs, from a source of facts or from a truthy dump.

    Args:
        out: file to be written, `.nt` or `.nt.gz`.
        sources: names of the sources; `sparql` is needed where there is no dump.
        dump: a truthy dump, `.nt`, `.nt.gz` or `.nt.bz2`, instead of `sparql`.
        relations: relations whose tuples are looked up; by default all.
        site: what the IRIs of articles start with; None for no articles.
        sitelinks: whether the sitelinks of subjects are queried; from a dump they are always taken.
        pool: largest pool of a build from the slice: of three times as many subjects of an object it is queried what
            they are, where the relation is about some kinds only; 0 for all, as with sitelinks and from a dump.
        most: subjects of an object that are kept from a dump, about; 0 for all.
        workers: processes that filter a dump; by default one a core.
        progress: function that is told how much is done.

    Raises:
        BadInput: not just one of `sparql` and `dump` is given, or a source is missing or malformed.
        SourceError: a server could not answer; the same call continues where it stopped.
    """
    if (sources.sparql is None) == (dump is None):
        raise BadInput("expected one of --sparql (an endpoint or files) and --dump (a truthy dump)")
    if out.suffix not in (".nt", ".gz"):
        raise BadInput(f"expected a name that ends in .nt or .nt.gz, got {out}")
    tell = progress or (lambda _stage, _done, _total: None)
    language = sources.language
    if dump is not None:
        loaded = load_relations(language_folder(sources.open_pararel(), language), None, language, relations)
        counts = write_dump_slice(
            dump, loaded, out, language, site, most=most, workers=workers, progress=partial(_tell_megabytes, tell)
        )
        return SnapshotReport(out, counts, None)
    opened = sources.open(articles=False, texts=False)
    loaded = load_relations(language_folder(opened.pararel, language), None, language, relations)
    lines = take_snapshot(loaded, opened.facts, language, site, sitelinks=sitelinks, pool=pool, progress=tell)
    counts = Counter(statements=write_slice(out, lines))
    return SnapshotReport(out, counts, None if opened.client is None else opened.client.counts())


def take_snapshot(
    relations: Sequence[Relation],
    source: SparqlSource,
    language: str = "en",
    site: str | None = None,
    *,
    sitelinks: bool = False,
    pool: int = POOL,
    progress: Progress | None = None,
) -> set[str]:
    """Query everything that a build of these relations needs.

    Args:
        relations: their tuples say what is needed.
        source: the source of facts.
        language: language of the labels.
        site: what the IRIs of articles start with; None for no articles.
        sitelinks: whether sitelinks are queried.
        pool: largest pool of a build from them; 0 for any.
        progress: function that is told how many relations are done.

    Returns:
        the statements, as lines of N-Triples. A build from them has the same records and the same reference texts as
        one from the source.

    Raises:
        BadInput: sitelinks are wanted and the source has none.
        SourceError: the source could not answer.
    """
    lines: set[str] = set()
    known: dict[str, Knowledge] = {}
    for done, relation in enumerate(relations, 1):
        known[relation.id] = query_knowledge(relation, source, language)
        lines.update(_statements(relation.id, known[relation.id], language))
        if progress is not None:
            progress("facts", done, len(relations))
    objects = {object for knowledge in known.values() for object in knowledge.holders}
    lines.update(fact_line(entity, relation, above) for relation, entity, above in query_above(objects, source))
    rules = load_subject_kinds()
    # A pool in the order of sitelinks may hold any of an object's subjects.
    asked = subjects_to_ask(known, rules, 0 if sitelinks else pool)
    lines.update(fact_line(*fact) for fact in query_kind_facts(asked, rules, source))
    if site is not None:
        lines.update(_articles(known.values(), source, site))
    if sitelinks:
        lines.update(sitelinks_line(*counted) for counted in count_sitelinks(_entities(known), source).items())
    return lines


def _statements(relation: str, known: Knowledge, language: str) -> Iterable[str]:
    for subject, objects in known.objects.items():
        yield from (fact_line(subject, relation, object) for object in objects)
    for object, held in known.holders.items():
        for holder in held:
            yield fact_line(holder.id, relation, object)
            yield label_line(holder.id, holder.label, language)
    for labels, ids in known.resolved.items():
        line = alias_line if labels in known.other_names else label_line
        yield from (line(id, label, language) for id, label in zip(ids, labels, strict=True))


def _entities(known: Mapping[str, Knowledge]) -> set[str]:
    """Return the subjects of tuples, and all that have one of the objects: a pool may be in the order of sitelinks."""
    holders = {one.id for knowledge in known.values() for held in knowledge.holders.values() for one in held}
    return holders.union(*(knowledge.objects for knowledge in known.values()))


def _articles(known: Iterable[Knowledge], source: SparqlSource, site: str) -> Iterable[str]:
    entities = {holder.id for knowledge in known for held in knowledge.holders.values() for holder in held}
    ordered = sorted(entities, key=relation_number)
    for answer in query_in_batches(source, ordered, ENTITIES_A_QUERY, lambda batch: queries.articles(batch, site)):
        yield from (about_line(row["article"], entity_id(row["entity"])) for row in answer.rows)


def write_slice(path: Path, lines: Iterable[str]) -> int:
    """Write a slice, sorted, each statement once; gzipped where the name ends in `.gz`, equal bytes for equal lines.

    Returns:
        how many statements it has.
    """
    ordered = sorted(set(lines))
    data = "".join(ordered).encode()
    write_atomic(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return len(ordered)


def _tell_megabytes(tell: Progress, done: int) -> None:
    tell("MB", done >> 20, None)
