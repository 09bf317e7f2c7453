"""What a CounterFact data set is made of, in the form of the paper's Table 2.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, Table 2.
https://arxiv.org/abs/2202.05262
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

Things = Callable[[CounterFactRecord], Iterable[object]]
"""Function that returns the things of one kind in a record."""


@dataclass(frozen=True)
class Count:
    """Row of a table: the number of different things of a kind."""

    item: str
    total: int
    """Number in the whole data set."""
    per_relation: float
    """Number in a relation, averaged over the relations."""
    per_record: float
    """Number in a record, averaged over the records."""


PAPER_TABLE_2 = (
    Count("records", 21_919, 645, 1),
    Count("subjects", 20_391, 624, 1),
    Count("objects", 749, 60, 1),
    Count("counterfactual statements", 21_595, 635, 1),
    Count("paraphrase prompts", 42_876, 1_262, 2),
    Count("neighborhood prompts", 82_650, 2_441, 10),
    Count("generation prompts", 62_346, 1_841, 3),
)
"""The paper's own figures, rounded as printed; it has no row for attribute prompts and neighborhood subjects."""

PROMPTS: Mapping[str, Things] = {
    "paraphrase prompts": lambda record: record.paraphrase_prompts,
    "neighborhood prompts": lambda record: record.neighborhood_prompts,
    "attribute prompts": lambda record: record.attribute_prompts,
    "generation prompts": lambda record: record.generation_prompts,
}
"""Kinds of prompts beside the rewriting prompt."""

_ITEMS: Mapping[str, Things] = {
    "records": lambda record: [record.case_id],
    "subjects": lambda record: [record.requested_rewrite.subject],
    "objects": lambda record: [record.requested_rewrite.target_new.text],
    "counterfactual statements": lambda record: [
        fill(record.requested_rewrite.prompt, record.requested_rewrite.subject)
    ],
    **PROMPTS,
    "neighborhood subjects": lambda record: (record.provenance or {}).get("neighborhood_ids", ()),
}


def table_2(records: Sequence[CounterFactRecord]) -> list[Count]:
    """Count different things: in all, in a relation, in a record.

    A counterfactual statement is a rewriting prompt with its subject; an object is a new one; the subjects of
    neighborhood prompts are known only where the provenance names them, and are left out elsewhere.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("expected records to count, got none")
    rows = [_count(item, things, records) for item, things in _ITEMS.items()]
    return [row for row in rows if row.total]


def _count(item: str, things: Things, records: Sequence[CounterFactRecord]) -> Count:
    total: set[object] = set()
    relations: defaultdict[str | None, set[object]] = defaultdict(set)
    in_records = 0
    for record in records:
        distinct = set(things(record))
        total |= distinct
        relations[record.requested_rewrite.relation_id] |= distinct
        in_records += len(distinct)
    per_relation = sum(map(len, relations.values())) / len(relations)
    return Count(item, len(total), per_relation, in_records / len(records))


def stats_json(records: Sequence[CounterFactRecord]) -> dict[str, Any]:
    """Return the content of `stats.json`: Table 2, and the same counts for every relation."""
    by_relation: defaultdict[str, list[CounterFactRecord]] = defaultdict(list)
    for record in records:
        by_relation[record.requested_rewrite.relation_id or ""].append(record)
    table = [
        {
            "item": row.item,
            "total": row.total,
            "per_relation": round(row.per_relation, 2),
            "per_record": round(row.per_record, 4),
        }
        for row in table_2(records)
    ]
    relations = {
        relation: {row.item: row.total for row in table_2(members)}
        for relation, members in sorted(by_relation.items(), key=lambda pair: (len(pair[0]), pair[0]))
    }
    return {"table_2": table, "relations": relations}
