"""AlphaEdit: the reference's numbers, and what holds of projections and of a memory."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterfact.contracts.editors import Accumulating, Editor
from counterfact.core.errors import BadInput
from counterfact.editors.alphaedit import NullSpace, null_space
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.second_moment import SecondMoment
from tests.support.editing import REQUESTS, moment, resources
from tests.support.many_edits import (
    ManyEdits,
    change,
    check_closed_form,
    check_run,
    check_steps,
    distance,
    edit_of,
    mass_editor,
)
from tests.support.models import tiny_lm

CHOICES = ("layers=[0,1]", "steps=4")


@pytest.mark.parametrize(
    ("prefix", "tolerance"), [("a1_", 5e-4), ("a16_", 5e-4), ("a4r1_", 5e-4), ("a4t_", 2e-3), ("ash_", 5e-4)]
)
def test_edits_are_the_references(many_edits: ManyEdits, prefix: str, tolerance: float) -> None:
    editor, requests, arrays, run = many_edits.run("alphaedit", prefix)
    done, keys = editor.edit(requests, {})
    check_run(edit_of([done]), keys, arrays, run["layers"], tolerance)
    check_closed_form(many_edits, "alphaedit", "alphaedit", [prefix], 2e-4)


def test_batch_after_batch_is_the_references(many_edits: ManyEdits) -> None:
    check_steps(many_edits, "alphaedit", "aseq", 5e-4)
    check_closed_form(many_edits, "alphaedit", "alphaedit", [f"aseq{step}_" for step in range(3)], 2e-4)


@pytest.mark.parametrize("threshold", [0.2, 0.02])
def test_projections_are_the_references(many_edits: ManyEdits, threshold: float) -> None:
    projections = many_edits.arrays("alphaedit", f"P_{threshold}")[""]
    dimensions = many_edits.read("alphaedit.json")["null_dimensions"][str(threshold)]
    for layer, expected, dimension in zip((0, 1, 2), projections, dimensions, strict=True):
        found = null_space(many_edits.moments[layer], threshold, 0.5)
        assert found.dimensions == dimension
        assert distance(found.project(torch.eye(128).double()), expected) < 1e-4


def projection(space: NullSpace) -> Tensor:
    return space.project(torch.eye(len(space.others), dtype=torch.float64))


def test_a_projection_is_one() -> None:
    given = moment(tiny_lm("gpt2"), 0)
    space = null_space(given, None, 0.05)
    once = projection(space)
    torch.testing.assert_close(once @ once, once, rtol=0, atol=1e-13)
    torch.testing.assert_close(once, once.T, rtol=0, atol=1e-13)
    assert float(once.trace()) == pytest.approx(space.dimensions)
    assert float((once @ given.matrix).trace()) == pytest.approx(space.trace)
    assert space.share <= 0.05 < null_space(given, None, 0.051).share + 0.01
    larger = null_space(given, space.threshold * 1.5, 0.05)
    assert larger.dimensions > space.dimensions, "a threshold goes before a share"


def test_nothing_is_written_outside_the_null_space(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    editor = mass_editor("alphaedit", lm, resources(lm, tmp_path), *CHOICES, "null_share=0.1")
    for layer, delta in enumerate(edit_of(editor([list(REQUESTS)], 0)).deltas):
        assert isinstance(delta, LowRank)
        others = null_space(moment(lm, layer), None, 0.1).others
        assert (delta.left @ others).norm() < 1e-13 * delta.left.norm()
        facts = editor.provenance["null_spaces"][str(layer)]
        assert facts["dimensions"] == len(others) - others.shape[1] and 0 < facts["share_of_trace"] <= 0.1


def sequence(editor: Editor, lm: LM, batches: list[list[int]]) -> tuple[list[Edit], dict[str, Tensor]]:
    """Edit batches one after another."""
    assert isinstance(editor, Accumulating)
    edits: list[Edit] = []
    state = None
    for batch in batches:
        with merged(lm, edits):
            done = editor.step([REQUESTS[i] for i in batch], 0, state)
        edits.append(edit_of([done]))
        state = done.state
    return edits, dict(state or {})


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_a_sequence_remembers_and_depends_on_its_batches_alone(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    before = {key: tensor.clone() for key, tensor in lm.model.state_dict().items()}
    editor = mass_editor(
        name, lm, resources(lm, tmp_path), *CHOICES, "moment_weight=3" if name == "memit_seq" else "ridge=0.1"
    )
    [whole], state = sequence(editor, lm, [[0, 1, 2, 3]])
    [turned], _ = sequence(editor, lm, [[3, 1, 0, 2]])
    assert (change(whole) - change(turned)).norm() <= 1e-6 * change(whole).norm()
    assert {key: rows.shape[0] for key, rows in state.items()} == {"keys.0": 4, "keys.1": 4}
    halves, both = sequence(editor, lm, [[0, 1], [2, 3]])
    assert (sum(map(change, halves)) - change(whole)).norm() > 1e-3 * change(whole).norm()
    torch.testing.assert_close(both["keys.0"], state["keys.0"])  # no layer below is edited
    assert not torch.allclose(both["keys.1"], state["keys.1"])
    again, _ = sequence(editor, lm, [[0, 1], [2, 3]])
    assert all(torch.equal(change(one), change(other)) for one, other in zip(halves, again, strict=True))
    with merged(lm, halves[:1]):
        [forgetful] = editor([[REQUESTS[2], REQUESTS[3]]], 0)
    assert (change(edit_of([forgetful])) - change(halves[1])).norm() > 1e-4 * change(halves[1]).norm()
    assert torch.equal(change(edit_of(editor([list(REQUESTS[:4])], 0))), change(whole)), "a call starts from nothing"
    assert all(torch.equal(tensor, before[key]) for key, tensor in lm.model.state_dict().items())


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_a_step_without_a_request_that_can_be_edited_keeps_the_state(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    editor = mass_editor(name, lm, resources(lm, tmp_path), *CHOICES)
    assert isinstance(editor, Accumulating)
    first = editor.step(REQUESTS[:1], 0, None)
    nothing = editor.step([replace(REQUESTS[1], target_new="")], 0, first.state)
    assert nothing.edit is None and nothing.state == first.state
    assert editor.step([], 0, None).state == {}


def test_a_threshold_that_leaves_nothing_is_refused_and_one_beside_an_eigenvalue_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match="no direction is left"):
        mass_editor("alphaedit", lm, resources(lm, tmp_path), *CHOICES, "threshold=0.0001")
    width = len(moment(lm, 0).matrix)
    apart = SecondMoment(torch.diag(torch.linspace(0.1, 5.0, width).double()), width, 0, "apart", "0")
    given = resources(lm, tmp_path, second_moments={0: apart})
    for threshold, warned in ((0.1005, True), (0.102, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            editor = mass_editor("alphaedit", lm, given, "layers=[0]", f"threshold={threshold}")
        assert ("within 1 %" in caplog.text) == warned
        assert editor.provenance["null_spaces"]["0"]["near_threshold"] == int(warned)


def test_more_facts_than_directions_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = tiny_lm("gpt2")
    width = len(moment(lm, 0).matrix)
    narrow = SecondMoment(torch.diag(torch.tensor([0.1, 0.2, *[5.0] * (width - 2)]).double()), width, 0, "narrow", "0")
    given = resources(lm, tmp_path, second_moments={0: narrow})
    editor = mass_editor("alphaedit", lm, given, "layers=[0]", "steps=2", "threshold=1")
    said = "layer 0: 3 facts share 2 directions to be written in, too few for all; a larger threshold leaves more"
    with caplog.at_level(logging.WARNING):
        _, state = sequence(editor, lm, [[0, 1]])
        assert not caplog.messages
        editor.step([REQUESTS[2]], 0, state)
        editor([list(REQUESTS[:4])], 0)
    assert caplog.messages == [said]
