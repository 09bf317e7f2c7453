"""Counts of a build for its `build.json`: what became of all that it read, by relation and in total."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..sources.knowledge import Knowledge
from ..sources.pararel import Relation, relation_number
from ..sources.subject_kinds import SubjectsTold
from .candidates import Candidate, DroppedTuple
from .expectation import PAPER, Spread, expected, measured
from .settings import BuildSettings

_SUMMED = ("dropped", "patterns", "facts", "subject_kinds", "new_objects")
"""Counts by relation that are added up."""


def relation_counts(
    relation: Relation,
    known: Knowledge,
    candidates: Sequence[Candidate],
    dropped: Sequence[DroppedTuple],
    settings: BuildSettings,
    kinds: SubjectsTold | None = None,
) -> dict[str, Any]:
    """Return what became of the tuples, patterns, facts and objects of one relation.

    Args:
        relation: its tuples and templates.
        known: its facts.
        candidates: all that became records.
        dropped: all tuples that gave none.
        settings: options of the build.
        kinds: what the source tells of its subjects, where they were checked.
    """
    mine = [candidate for candidate in candidates if candidate.fact.relation == relation.id]
    reasons = Counter(one.reason for one in dropped if one.fact.relation == relation.id)
    return {
        "tuples": len(relation.tuples),
        "records": len(mine),
        "records_topped_up": sum(candidate.topped_up for candidate in mine),
        "records_with_fewer_attribute_prompts": sum(
            len(candidate.attribute.prompts) < settings.attribute_prompts for candidate in mine
        ),
        "dropped": dict(sorted(reasons.items())),
        "templates": len(relation.templates),
        "templates_added": relation.added,
        "patterns": relation.outcomes,
        "decisions": [
            {"pattern": pattern, "template": cut.template, "outcome": cut.outcome}
            for pattern, cut in relation.decisions
        ],
        "facts": known.counts,
        "subject_kinds": kinds.counts() if kinds is not None and kinds.asked else {},
        "new_objects": _new_objects(relation, known, mine, settings) if known.resolved else {},
    }


def _new_objects(
    relation: Relation, known: Knowledge, candidates: Sequence[Candidate], settings: BuildSettings
) -> dict[str, int]:
    """Return how many objects may become new ones, and the tuples of those that never can: the weight that is lost."""
    weights = Counter(fact.object for fact in relation.tuples)
    ids = ids_by_label(relation, known)
    unknown = [label for label in weights if label not in ids]
    templates = len(relation.templates) + len(relation.spare)
    few = [
        label
        for label, id in ids.items()
        if len({holder.label for holder in known.holders[id]}) * templates < settings.attribute_prompts
    ]
    left_out = few if settings.too_few_attributes == "drop" else []
    return {
        "objects": len(weights),
        "drawn": len({candidate.new.id for candidate in candidates}),
        "without an entity": len(unknown),
        "tuples of these": sum(weights[label] for label in unknown),
        "with too few subjects for attribute prompts": len(left_out),
        "tuples of those": sum(weights[label] for label in left_out),
    }


def ids_by_label(relation: Relation, knowledge: Knowledge) -> dict[str, str]:
    """Return one id for every label of an object: the id of most tuples, then the lowest."""
    ids: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact in relation.tuples:
        if (fact.subject, fact.object) in knowledge.resolved:
            ids[fact.object][knowledge.resolved[fact.subject, fact.object][1]] += 1
    return {label: min(counted, key=lambda id: (-counted[id], relation_number(id))) for label, counted in ids.items()}


def totals(
    relations: Mapping[str, Any], candidates: Sequence[Candidate], references: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the sums over all relations.

    Args:
        relations: name to `relation_counts`.
        candidates: all that became records.
        references: the lines of `reference_texts.jsonl`.
    """
    sums: dict[str, Counter[str]] = {kind: Counter() for kind in _SUMMED}
    for counts in relations.values():
        for kind, total in sums.items():
            total.update(counts[kind])
    with_texts = {(entry["relation_id"], entry["target_id"]) for entry in references}
    return {
        "tuples": sum(counts["tuples"] for counts in relations.values()),
        "records": len(candidates),
        **{
            kind: sum(counts[kind] for counts in relations.values())
            for kind in ("records_topped_up", "records_with_fewer_attribute_prompts")
        },
        "relations": sum(counts["records"] > 0 for counts in relations.values()),
        **{kind: dict(sorted(total.items())) for kind, total in sums.items()},
        "spread": {kind: _spread(kind, candidates) for kind in PAPER},
        "reference_texts": sum(len(entry["samples"]) for entry in references),
        "records_without_reference_texts": sum(
            (candidate.fact.relation, candidate.new.id) not in with_texts for candidate in candidates
        ),
    }


def _spread(kind: str, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return how prompts of a kind are spread, beside what the pools predict, if they were drawn uniformly."""
    draws = [(candidate.fact.relation, getattr(candidate, kind)) for candidate in candidates]
    uniform = all(draw.pool for _, draw in draws if draw.prompts)
    found = {"measured": measured([draw for _, draw in draws]), "predicted": expected(draws) if uniform else None}
    return {
        "subjects_a_record": {which: _rounded(spread, 0, 3) for which, spread in found.items()},
        "distinct_prompts": {which: _rounded(spread, 1, 0) for which, spread in found.items()},
    }


def _rounded(spread: Spread | None, which: int, digits: int) -> float | None:
    value = None if spread is None else spread[which]
    return None if value is None else round(value, digits)
