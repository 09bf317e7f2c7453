"""Two data sets beside each other: counts by hand, in both directions."""

from counterfact.builders.audit.overlap import Shared, overlap
from tests.builders.test_statistics import record


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
