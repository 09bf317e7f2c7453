"""One table of all protocols: every number is the run's own, and editors that change places are named."""

from typing import Any

import pytest

from counterfact.core.errors import BadInput
from counterfact.evaluation.protocols import UNEDITED, protocol_tables
from counterfact.evaluation.store import Run, find_runs
from tests.support import ROOT

FROZEN = ROOT / "tests" / "golden" / "results" / "v1"
LIKELIER = {True: {"target_new": 1.0, "target_true": 2.0}, False: {"target_new": 2.0, "target_true": 1.0}}


def frozen(editor: str) -> Run:
    return next(run for run in find_runs(FROZEN) if (run.editor, run.benchmark.name) == (editor, "counterfact"))


def made_up(editor: str, successes: int, seed: int) -> Run:
    """A run of forty records, whose first so many succeed in every part of S, and the others in none."""
    before = frozen("fake")
    run = Run(
        before.folder, {**before.data, "editor": {**before.data["editor"], "name": editor}, "seeds": {"run": seed}}
    )
    run.__dict__["cases"] = [case(number, success=number < successes) for number in range(40)]
    return run


def case(number: int, *, success: bool) -> dict[str, Any]:
    sorts = {"rewrite": success, "paraphrase": success, "neighborhood": not success}
    post = {f"{sort}_prompts_probs": [LIKELIER[new]] for sort, new in sorts.items()}
    return {"case_id": number, "requested_rewrite": {"subject": "Oslo"}, "post": post}


def test_every_number_is_the_runs_own() -> None:
    fake, identity = frozen("fake"), frozen("identity")
    [table] = protocol_tables([fake, identity, *[run for run in find_runs(FROZEN) if run.benchmark.name == "zsre"]])
    assert table.columns == (UNEDITED, "identity", "fake")
    rows = {row.label: row for row in table.rows}
    assert rows["CounterFact on ours@1: S"].n == "6/7"
    assert len(table.rows) == 4 + 4, "S and the three parts of it, of both protocols"
    for name, label in (("S", "CounterFact on ours@1: S"), ("ES", "ES"), ("NS", "NS")):
        for column, entry in ((UNEDITED, fake.data["pre"]), ("fake", fake.data["metrics"])):
            cell = rows[label].cells[column]
            assert (cell.value, cell.low, cell.high) == (entry[name]["value"], entry[name]["low"], entry[name]["high"])
    assert rows["efficacy"].cells.keys() == {UNEDITED, "fake"}
    assert table.note == "x100, with the 95 % interval"


def test_editors_that_change_places_are_named_where_both_differences_are_clear() -> None:
    first = [made_up("one", 36, 0), made_up("other", 10, 0)]
    second = [made_up("one", 10, 1), made_up("other", 36, 1)]
    [table] = protocol_tables([*first, *second])
    of_two = f"CounterFact on {first[0].dataset}"
    assert table.note.endswith(f"; one is ahead of other under {of_two}, behind under {of_two}")
    [table] = protocol_tables([*first, made_up("third", 10, 0), *second, made_up("third", 36, 1)])
    assert table.note.endswith(f"; one is ahead of other, third under {of_two}, behind under {of_two}"), "said once"
    [table] = protocol_tables([*first, made_up("one", 20, 1), made_up("other", 21, 1)])
    assert "ahead" not in table.note, "one record more is no clear difference"


def test_two_runs_in_one_place_are_refused() -> None:
    with pytest.raises(BadInput, match="the same editor under one protocol"):
        protocol_tables([frozen("fake"), made_up("fake", 3, frozen("fake").data["seeds"]["run"])])
