"""MEMIT, MEMIT_seq and EMMET: equal to the references' numbers, independent of order, and one weight apart."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.core.errors import BadInput
from counterfact.core.records import Request
from counterfact.editing import plain
from counterfact.editing.key_states import KeyStates
from counterfact.editing.requests import encode
from counterfact.editing.value_search import find_targets
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.planning.batch_plan import default_plan
from tests.support.editing import REQUESTS, TEMPLATES, resources
from tests.support.many_edits import (
    ManyEdits,
    change,
    check_closed_form,
    check_run,
    check_steps,
    edit_of,
    made,
    mass_editor,
)
from tests.support.models import tiny_lm

MEMIT = ("b1_", "b4_", "b16_", "b4w1_", "b4w15000_", "b4c3_", "shared_", "b4l2_")
EMMET = ("e1_", "e4_", "e16_", "e4w_", "e4n_", "e4l_", "esh_")


@pytest.mark.parametrize(("name", "prefix"), [*(("memit", p) for p in MEMIT), *(("emmet", p) for p in EMMET)])
def test_edits_are_the_references(many_edits: ManyEdits, name: str, prefix: str) -> None:
    editor, requests, arrays, run = many_edits.run(name, prefix)
    done, keys = editor.edit(requests, {})
    check_run(edit_of([done]), keys, arrays, run["layers"], 2e-4)


@pytest.mark.parametrize("prefix", MEMIT)
def test_the_closed_form_of_the_references_keys_is_its_update(many_edits: ManyEdits, prefix: str) -> None:
    check_closed_form(many_edits, "memit", "memit", [prefix], 1e-6)


def test_batch_after_batch_is_the_references(many_edits: ManyEdits) -> None:
    check_steps(many_edits, "memit_seq", "mseq", 2e-4)
    check_closed_form(many_edits, "memit_seq", "alphaedit", [f"mseq{step}_" for step in range(3)], 1e-6)


SUBJECT_FIRST = Request(20, "{} is in", "A", "Oslo")
CHOICES = ("layers=[0,1]", "steps=4")


def test_emmet_is_memit_with_another_weight(tmp_path: Path) -> None:
    lm, several = tiny_lm("gpt2"), list(REQUESTS[:4])
    emmet = made(lm, "emmet", tmp_path, several, *CHOICES, "moment_weight=30", "equality_weight=0.1")
    memit = made(lm, "memit", tmp_path, several, *CHOICES, "moment_weight=3")
    torch.testing.assert_close(change(emmet), change(memit), rtol=1e-9, atol=1e-12)


def test_emmet_is_exact_for_one_request_and_memit_writes_a_share(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    shares = []
    for name in ("emmet", "memit"):
        editor = mass_editor(name, lm, resources(lm, tmp_path), "layers=[1]", "steps=4")
        done, keys = editor.edit(REQUESTS[:1], {})
        [delta] = edit_of([done]).deltas
        assert isinstance(delta, LowRank)
        shares.append(float(keys[1] @ delta.left.T))
    assert shares[0] == pytest.approx(1, abs=1e-12)
    assert 0.05 < shares[1] < 0.95


def test_order_does_not_matter_and_batches_do(tmp_path: Path) -> None:
    lm, several = tiny_lm("gpt2"), list(REQUESTS[:6])
    edit = partial(made, lm, "memit", tmp_path)
    whole = change(edit(several, *CHOICES))
    assert (change(edit(several[::-1], *CHOICES)) - whole).norm() <= 1e-6 * whole.norm()
    first, second = (change(edit(part, *CHOICES)) for part in (several[:3], several[3:]))
    assert (first + second - whole).norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("memit", family) for family in ("gpt2", "llama", "gemma2", "falcon")),
        ("alphaedit", "llama"),
        ("memit_seq", "gemma2"),
        ("rect", "falcon"),
        *(("pmet", family) for family in ("gpt2", "gptj", "gemma2", "bloom")),
    ],
)
def test_the_plain_engine_makes_the_same_edit(name: str, family: str, tmp_path: Path) -> None:
    lm, several = tiny_lm(family), list(REQUESTS[:4])
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    first, second = (
        change(made(lm, name, tmp_path, several, *CHOICES, engine=engine)) for engine in ("batched", "plain")
    )
    assert (first - second).norm() <= 1e-4 * first.norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())


def test_editors_share_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, searched = tiny_lm("gpt2"), list[int]()

    def counted(*given: Any) -> Any:
        searched.append(given[2])
        return find_targets(*given)

    monkeypatch.setattr("counterfact.editing.goals.find_targets", counted)

    def edit(name: str, *choices: str) -> Edit:
        return made(lm, name, tmp_path, list(REQUESTS[:4]), *choices)

    first, again = edit("memit", *CHOICES), edit("memit", *CHOICES)
    assert torch.equal(change(first), change(again))
    edit("alphaedit", *CHOICES)
    edit("emmet", "layers=[1]", "steps=4")
    assert searched == [1]
    edit("memit", "layers=[0]", "steps=4")
    edit("memit", "layers=[0,1]", "steps=3")
    with merged(lm, [first]):  # another model
        edit("memit", *CHOICES)
    assert searched == [1, 0, 1, 1]


def test_groups_share_one_search_and_are_edited_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, batches = tiny_lm("gpt2"), list[int]()

    def counted(*given: Any) -> Any:
        batches.append(len(given[1]))
        return find_targets(*given)

    monkeypatch.setattr("counterfact.editing.goals.find_targets", counted)
    bad = replace(REQUESTS[4], prompt="{} or {}")
    groups = [[REQUESTS[0]], [REQUESTS[1], bad], [bad], list(REQUESTS[2:4])]
    editor = mass_editor("memit", lm, resources(lm, tmp_path), *CHOICES)
    done = editor(groups, 0)
    assert batches == [4]
    assert [len(each.failures) for each in done] == [0, 1, 1, 0] and done[2].edit is None
    for each, group in zip(done, ([0], [1], [], [2, 3]), strict=True):
        if each.edit is not None:
            assert each.edit.request_ids == tuple(REQUESTS[i].id for i in group)
            alone = change(made(lm, "memit", tmp_path, [REQUESTS[i] for i in group], *CHOICES))
            assert (change(each.edit) - alone).norm() <= 1e-4 * alone.norm()


def test_a_long_search_is_told_of(tmp_path: Path) -> None:
    lm, told = tiny_lm("gpt2"), list[tuple[str, int, int | None]]()
    small = replace(default_plan(lm), tokens_per_batch=1)
    given = {"plan": small, "progress": lambda *what: told.append(what)}
    made(lm, "memit", tmp_path, list(REQUESTS[:3]), *CHOICES, **given)
    assert told == [("facts searched for", done, 3) for done in (1, 2, 3)]
    made(lm, "memit", tmp_path, list(REQUESTS[:1]), *CHOICES, **given)
    assert len(told) == 3


def test_an_edit_brings_the_stream_nearer_to_what_is_wanted(tmp_path: Path) -> None:
    lm, request = tiny_lm("gpt2"), REQUESTS[0]
    weak = made(lm, "memit", tmp_path, [request], "layers=[0,1]", "moment_weight=0.001")
    before, after = nats(lm, request, []), nats(lm, request, [weak])
    assert after < before - 0.3, "as good as no other text counts, so nearly all of z is written"


def nats(lm: LM, request: Request, edits: list[Edit]) -> float:
    """Mean -log p per token of the new object after its prompt."""
    before, ids = lm.prompt_tokens(request.filled), lm.target_tokens(request.target_new)
    with merged(lm, edits), torch.no_grad():
        logits = lm.model(torch.tensor([before + ids]), use_cache=False).logits[0, len(before) - 1 : -1].double()
    return float(-logits.log_softmax(-1)[range(len(ids)), ids].mean())


def test_requests_about_one_subject_have_one_key_and_are_written_together(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    twins = [Request(1, "{} is in", "Norway", "Oslo"), Request(2, "{} is called", "Norway", "Turin")]
    edit = made(lm, "memit", tmp_path, twins, *CHOICES, context_templates=TEMPLATES[:1])
    delta = edit.deltas[0]
    assert isinstance(delta, LowRank)
    assert bool(torch.isfinite(delta.left).all())
    torch.testing.assert_close(delta.left[0], delta.left[1])


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2", "falcon", "bloom"])
def test_keys_and_what_stands_at_the_goal_are_those_of_whole_passes(family: str) -> None:
    lm, last = tiny_lm(family), 2
    again = [replace(request, id=request.id + 10) for request in REQUESTS[:2]]
    records = [
        encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in (*REQUESTS, *again, SUBJECT_FIRST)
    ]
    states = KeyStates.of(lm, records, replace(default_plan(lm), tokens_per_batch=16))
    assert states.texts is not None and sum(part.are_bare for part in states.parts) > 1
    goal, written = Site(lm.layout.block(last)), list[LowRank]()
    random = torch.Generator().manual_seed(0)
    for layer in (0, 2):
        keys, reached = states.look(lm, layer, last, goal, written[-1:])
        with merged(lm, [Edit(tuple(written), ())]), torch.no_grad():
            for number, record in enumerate(records):
                tape = Tape()
                with hooked(lm.model, tape.read(goal)):
                    expected, _ = plain.keys_and_outputs(lm, record, layer)
                mean = (expected[0] + expected[1:].mean(0)) / 2
                torch.testing.assert_close(keys[number], mean.double(), rtol=1e-4, atol=1e-5)
                there = tape[goal][0, record.rows[0].lookup]
                torch.testing.assert_close(reached[number], there.double(), rtol=1e-4, atol=1e-5)
        shape = weight_shape(lm.model, lm.layout.fc_out(layer))
        left, right = (torch.randn(3, size, generator=random) for size in shape)
        written.append(LowRank(lm.layout.fc_out(layer), left, right))


def test_a_request_that_cannot_be_edited_costs_its_group_only_itself(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    bad = Request(77, "{} is in", "Norway", "")
    [done, nothing] = mass_editor("memit", lm, resources(lm, tmp_path), *CHOICES)([[*REQUESTS[:2], bad], [bad]], 0)
    assert done.edit is not None and done.edit.request_ids == (0, 1)
    assert [failure.id for failure in done.failures] == [77]
    torch.testing.assert_close(change(done.edit), change(made(lm, "memit", tmp_path, list(REQUESTS[:2]), *CHOICES)))
    assert nothing.edit is None and [failure.id for failure in nothing.failures] == [77]


def test_a_group_without_a_solution_fails_and_ends_nothing(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    twins = [Request(1, "{} is in", "Norway", "Oslo"), Request(2, "{} is called", "Norway", "Turin")]
    given = resources(lm, tmp_path, context_templates=TEMPLATES[:1])
    editor = mass_editor("emmet", lm, given, *CHOICES, "equality_weight=0.0")
    alike, alone, empty = editor([twins, twins[:1], []], 0)
    assert alike.edit is None and [failure.id for failure in alike.failures] == [1, 2]
    assert all("keys depend on each other" in failure.reason for failure in alike.failures)
    assert alone.edit is not None and not alone.failures
    assert empty.edit is None and not empty.failures


@pytest.mark.parametrize("layers", ["[]", "[1,0]", "[0,0]", "[7]"])
def test_layers_that_are_none_or_out_of_order_are_refused(layers: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match=r"layers?: "):
        mass_editor("memit", lm, resources(lm, tmp_path), f"layers={layers}")
