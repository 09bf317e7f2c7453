"""In-context editing: the text that stands before prompts, and what it costs."""

from dataclasses import replace
from pathlib import Path

from counterfact.core.records import Request
from counterfact.lm.queries import Query
from counterfact.lm.scoring import score
from tests.lm.test_scoring import scores
from tests.support.editing import REQUESTS, prepared, resources
from tests.support.many_edits import edit_of
from tests.support.models import tiny_lm


def test_the_facts_stand_before_every_prompt(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    edit_all = prepared("in_context", lm, resources(lm, tmp_path)).editor
    edit = edit_of(edit_all([[REQUESTS[8], replace(REQUESTS[3], joiner="")]], 0))
    expected = (
        "New Fact: The capital of Norway is Zürich\nNew Fact: What is the language of Harlan Reed?Portuguese\nPrompt: "
    )
    assert edit.context == expected and edit.deltas == () and edit.request_ids == (8, 3)
    assert edit.diagnostics["tokens_added"] == len(lm.tokens(expected))
    prompt = "The capital of Norway is"
    (found,) = scores(score(lm, [Query(prompt, ("Oslo",))], [0], [edit]))
    (plain,) = scores(score(lm, [Query(expected + prompt, ("Oslo",))]))
    assert found == plain


def test_facts_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    edit_all = prepared("in_context", lm, resources(lm, tmp_path)).editor
    many = [Request(i, "{} was born in", f"Anna Ferrand {i}", "Oslo") for i in range(100)]
    bad = Request(100, "{} was born in", "", "Oslo")
    crowded, small = edit_all([[*many, bad], [many[0], bad]], 0)
    assert crowded.edit is None and len(crowded.failures) == 101
    assert "the model at most" in crowded.failures[0].reason and "subject" in crowded.failures[-1].reason
    assert small.edit is not None and small.edit.request_ids == (0,)
    assert [failure.id for failure in small.failures] == [100]
