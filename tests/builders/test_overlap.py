"""Two data sets beside each other: counts by hand, both directions, and why facts are missing."""

from pathlib import Path

from counterfact.builders.audit.overlap import Shared, overlap, why_missing
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.contracts.datasets import load_dataset
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from tests.builders.test_statistics import record
from tests.support.made_up_world import small_world


def test_counts_by_hand_in_both_directions() -> None:
    ours = [record(0, "P1", "Ana", "Esk", ["Bo", "Cy"]), record(1, "P1", "Dag", "Esk", ["Bo", "Eve"])]
    theirs = [record(0, "P1", "Ana", "Borrish", ["Cy", "Bo", "Fay"]), record(1, "P2", "Dag", "Esk", ["Bo"])]
    rows = {row.item: row for row in overlap(ours, theirs)}
    assert rows["relations"] == Shared("relations", 1, 2, 1)
    assert (rows["relations"].of_first, rows["relations"].of_second) == (1.0, 0.5)
    assert rows["subjects"][1:] == (2, 2, 2)
    assert rows["facts (relation, subject, true object)"][1:] == (2, 2, 1)
    assert rows["edits (facts with their new object)"][1:] == (2, 2, 0)
    assert rows["neighborhood prompts"][1:] == (3, 3, 2)
    assert rows["attribute prompts"][1:] == (0, 0, 0)
    assert rows["attribute prompts"].of_first is None
    there = overlap(theirs, ours)
    assert [(row.first, row.second, row.both) for row in there] == [(b, a, c) for _, a, b, c in rows.values()]


def test_why_facts_are_missing(tmp_path: Path) -> None:
    report = build_from_sources(
        small_world(("P103",)).write(tmp_path / "world"), BuildSettings(preset="strict"), tmp_path / "out"
    )
    records = [r for r in load_dataset(report.path).records if isinstance(r, CounterFactRecord)]
    world = small_world(("P103",))
    two = next(label for uuid, label, _ in world.tuples["P103"] if uuid == "P103-6")
    true = world.tuples["P103"][6][2]

    def wanted(relation: str, subject: str, object: str) -> CounterFactRecord:
        made = record(0, relation, subject, "Zud", [])
        target = made.requested_rewrite.target_true.model_copy(update={"text": object})
        return made.model_copy(
            update={"requested_rewrite": made.requested_rewrite.model_copy(update={"target_true": target})}
        )

    others = [
        records[0],
        wanted("P103", two, true),
        wanted("P103", "Nobody", "Aldic"),
        wanted("P19", "Nobody", "Aldic"),
        wanted("P19", "Nobody", "Aldic"),
    ]
    assert why_missing(report.path, records, others) == {
        "several objects": 1,
        "no such tuple": 1,
        "no tuples of the relation": 1,
    }
    assert why_missing(tmp_path, records, others) is None
