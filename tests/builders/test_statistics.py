"""Table 2: counts by hand on a few records, and the shape of the genuine ones."""

from pathlib import Path

import pytest

from counterfact.builders.audit.statistics import Count, stats_json, table_2
from counterfact.contracts.datasets import load_dataset
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord


def record(case_id: int, relation: str, subject: str, new: str, others: list[str]) -> CounterFactRecord:
    made = CounterFactRecord.model_validate(
        {
            "case_id": case_id,
            "requested_rewrite": {
                "prompt": "{} speaks",
                "relation_id": relation,
                "target_new": {"str": new, "id": None},
                "target_true": {"str": "Aldic", "id": None},
                "subject": subject,
            },
            "paraphrase_prompts": [f"{subject} dreams in", f"{subject} sings in"],
            "neighborhood_prompts": [f"{other} speaks" for other in others],
            "attribute_prompts": [],
            "generation_prompts": [f"{subject} wrote in"] * 10,
            "provenance": {"neighborhood_ids": others},
        }
    )
    return made


def test_counts_by_hand() -> None:
    records = [
        record(0, "P1", "Ana", "Esk", ["Bo", "Cy", "Bo"]),
        record(1, "P1", "Dag", "Esk", ["Bo", "Eve", "Fay"]),
        record(2, "P2", "Ana", "Borrish", ["Bo", "Gus", "Hal"]),
    ]
    assert table_2(records) == [
        Count("records", 3, 1.5, 1),
        Count("subjects", 2, 1.5, 1),
        Count("objects", 2, 1, 1),
        Count("counterfactual statements", 2, 1.5, 1),
        Count("paraphrase prompts", 4, 3, 2),
        Count("neighborhood prompts", 6, 3.5, 8 / 3),
        Count("generation prompts", 2, 1.5, 1),
        Count("neighborhood subjects", 6, 3.5, 8 / 3),
    ]
    assert stats_json(records)["relations"]["P2"]["neighborhood prompts"] == 3
    assert stats_json(records)["table_2"][5] == {
        "item": "neighborhood prompts",
        "total": 6,
        "per_relation": 3.5,
        "per_record": 2.6667,
    }


def test_nothing_to_count_is_said() -> None:
    with pytest.raises(ValueError, match="expected records"):
        table_2([])


def test_the_genuine_records(real_data: Path) -> None:
    records = [
        r
        for r in load_dataset(real_data / "counterfact/counterfact_100.json").records
        if isinstance(r, CounterFactRecord)
    ]
    counts = {row.item: row for row in table_2(records)}
    assert counts["records"].total == 100
    # Made outside Python: jq -r '.[].neighborhood_prompts[] | @json' counterfact_100.json | sort -u | wc -l, and so on.
    assert {item: row.total for item, row in counts.items()} == GENUINE
    assert counts["paraphrase prompts"].per_record == 2
    assert counts["neighborhood prompts"].per_record == pytest.approx(10, abs=0.2)
    assert counts["generation prompts"].per_record == pytest.approx(3, abs=0.2)


GENUINE = {
    "records": 100,
    "subjects": 100,
    "objects": 77,
    "counterfactual statements": 100,
    "paraphrase prompts": 200,
    "neighborhood prompts": 992,
    "attribute prompts": 978,
    "generation prompts": 295,
}
