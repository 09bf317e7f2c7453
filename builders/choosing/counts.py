"""What became of all that a build read: the counts of `build.json`, by relation and in all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..sources.knowledge import Knowledge
from ..sources.pararel import Relation
from .candidates import Draft, Dropped


def relation_counts(
    relation: Relation, known: Knowledge, drafts: Sequence[Draft], dropped: Sequence[Dropped]
) -> dict[str, Any]:
    """Return what became of the tuples, patterns and facts of one relation."""
    reasons = Counter(one.reason for one in dropped if one.fact.relation == relation.id)
    return {
        "tuples": len(relation.tuples),
        "records": sum(draft.fact.relation == relation.id for draft in drafts),
        "records_topped_up": sum(draft.fact.relation == relation.id and draft.topped_up for draft in drafts),
        "dropped": dict(sorted(reasons.items())),
        "templates": len(relation.templates),
        "templates_added": relation.added,
        "patterns": relation.outcomes,
        "facts": known.counts,
    }


def totals(relations: Mapping[str, Any], references: Sequence[Mapping[str, Any]], without: int) -> dict[str, Any]:
    """Return the sums over all relations.

    Args:
        relations: name to `relation_counts`.
        references: the lines of `reference_texts.jsonl`.
        without: records whose new object has no reference text.
    """
    sums: dict[str, Counter[str]] = {"dropped": Counter(), "patterns": Counter(), "facts": Counter()}
    for counts in relations.values():
        for kind, total in sums.items():
            total.update(counts[kind])
    return {
        "tuples": sum(counts["tuples"] for counts in relations.values()),
        "records": sum(counts["records"] for counts in relations.values()),
        "records_topped_up": sum(counts["records_topped_up"] for counts in relations.values()),
        "relations": sum(counts["records"] > 0 for counts in relations.values()),
        **{kind: dict(sorted(total.items())) for kind, total in sums.items()},
        "reference_texts": sum(len(entry["samples"]) for entry in references),
        "records_without_reference_texts": without,
    }
