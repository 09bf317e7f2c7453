"""Counts of a build for its `build.json`: what became of all that it read, by relation and in total."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..sources.knowledge import Knowledge
from ..sources.pararel import Relation
from .candidates import Candidate, DroppedTuple


def relation_counts(
    relation: Relation, known: Knowledge, candidates: Sequence[Candidate], dropped: Sequence[DroppedTuple]
) -> dict[str, Any]:
    """Return what became of the tuples, patterns and facts of one relation."""
    mine = [candidate for candidate in candidates if candidate.fact.relation == relation.id]
    reasons = Counter(one.reason for one in dropped if one.fact.relation == relation.id)
    return {
        "tuples": len(relation.tuples),
        "records": len(mine),
        "records_topped_up": sum(candidate.topped_up for candidate in mine),
        "dropped": dict(sorted(reasons.items())),
        "templates": len(relation.templates),
        "templates_added": relation.added,
        "patterns": relation.outcomes,
        "facts": known.counts,
    }


def totals(
    relations: Mapping[str, Any], candidates: Sequence[Candidate], references: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the sums over all relations.

    Args:
        relations: name to `relation_counts`.
        candidates: all that became records.
        references: the lines of `reference_texts.jsonl`.
    """
    sums: dict[str, Counter[str]] = {"dropped": Counter(), "patterns": Counter(), "facts": Counter()}
    for counts in relations.values():
        for kind, total in sums.items():
            total.update(counts[kind])
    with_texts = {(entry["relation_id"], entry["target_id"]) for entry in references}
    return {
        "tuples": sum(counts["tuples"] for counts in relations.values()),
        "records": len(candidates),
        "records_topped_up": sum(candidate.topped_up for candidate in candidates),
        "relations": sum(counts["records"] > 0 for counts in relations.values()),
        **{kind: dict(sorted(total.items())) for kind, total in sums.items()},
        "reference_texts": sum(len(entry["samples"]) for entry in references),
        "records_without_reference_texts": sum(
            (candidate.fact.relation, candidate.new.id) not in with_texts for candidate in candidates
        ),
    }
