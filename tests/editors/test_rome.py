"""ROME: the batched search against a plain one, the identities that must hold exactly, and the reference's numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import counterfact.editing.suffixes
import counterfact.editors.rome
from counterfact.contracts.editors import Failure, provenance
from counterfact.core.errors import BadInput
from counterfact.core.prompts import fill
from counterfact.editing import plain
from counterfact.editing.requests import Encoded, cut, encode
from counterfact.editing.value_search import find_values
from counterfact.editors.rome import RomeSettings
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, default_plan
from tests.support.editing import REQUESTS, TEMPLATES, broken_embedding, change, edits_of, moment, prepared, resources
from tests.support.models import FAMILIES, IN_FLOAT32, tiny_lm

QUICK = {"steps": 8, "learning_rate": 0.3, "weight_decay": 0.3, "kl_factor": 0.2, "clamp_norm_factor": 1.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_search_is_the_plain_search(family: str) -> None:
    lm = tiny_lm(family)
    batch = [encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS]
    free = find_values(lm, batch, RomeSettings(layer=1, stop_loss=-1.0, **QUICK))
    middle = float(free.trace[..., 0].amin(1).median())  # half of the records come below it, at some step
    settings = RomeSettings(layer=1, stop_loss=middle + 1e-3, **QUICK)
    values = find_values(lm, batch, settings)
    expected = plain.find_values(lm, batch, settings)
    assert torch.equal(values.passes, expected.passes)
    loose = 1e5 if family in IN_FLOAT32 else 1.0  # its attention is in float32 whatever the model's dtype
    for name in vars(expected):
        tight = 1e-9 if name == "trace" else 1e-7
        one, other = getattr(values, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=tight * loose, atol=1e-9 * loose, equal_nan=True)
    assert values.trace[0, int(values.passes[0]) :].isnan().all()
    passes = values.passes.tolist()
    assert min(passes) < max(passes) == settings.steps, "the test must see early stops and full searches"


@pytest.mark.parametrize("family", ["gpt2", "gptj", "qwen3"])
def test_what_records_have_in_common_is_run_once_and_changes_nothing(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(family)
    batch = [encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS]
    rows = [row for item in batch for row in item.rows]
    assert max(counterfact.editing.suffixes.common_starts(rows, len(batch[0].rows))) >= 3, (
        "the templates must have words in common"
    )
    settings = RomeSettings(layer=1, **QUICK)
    shared = find_values(lm, batch, settings)
    monkeypatch.setattr(counterfact.editing.suffixes, "common_starts", lambda rows, each: [0] * len(rows))
    apart = find_values(lm, batch, settings)
    for name in ("mean_key", "mean_output", "delta"):
        torch.testing.assert_close(getattr(shared, name), getattr(apart, name), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("layer", "position"),
    [(0, "subject_last"), (1, "subject_first"), (0, "subject_first_after_last"), (1, "last"), (2, "last")],
)
def test_every_position_and_the_last_layer(layer: int, position: Any) -> None:
    lm = tiny_lm("gpt2")
    settings = RomeSettings(layer=layer, position=position, **QUICK)
    batch = [encode(lm, request, TEMPLATES, position, kl_row=True) for request in REQUESTS[:4]]
    values = find_values(lm, batch, settings)
    expected = plain.find_values(lm, batch, settings)
    torch.testing.assert_close(values.delta, expected.delta, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(values.mean_key, expected.mean_key)


@pytest.mark.parametrize("name", ["rome", "r_rome", "p_rome"])
def test_the_plain_engine_makes_the_same_edits(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    batched = edits_of(prepared(name, lm, resources(lm, tmp_path), "steps=4")(REQUESTS, 0))
    one_by_one = edits_of(prepared(name, lm, resources(lm, tmp_path, engine="plain"), "steps=4")(REQUESTS, 0))
    assert len(list((tmp_path / "values").iterdir())) == 2, "values of one engine are never taken for the other's"
    for edit, other in zip(batched, one_by_one, strict=True):
        torch.testing.assert_close(change(edit), change(other), rtol=1e-7, atol=1e-9)


def test_an_editor_without_a_plain_engine_says_so(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match="kn has no plain engine, only batched"):
        prepared("kn", lm, resources(lm, tmp_path, engine="plain"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_of_the_mlp_moves_the_block_by_as_much(family: str) -> None:
    lm = tiny_lm(family)
    ids = torch.tensor([lm.prompt_tokens("The capital of Norway is")])
    moved = torch.randn(lm.width, dtype=torch.float64)
    tape, block = Tape(), Site(lm.layout.block(1))
    with torch.no_grad():
        with hooked(lm.model, tape.read(block)):
            lm.model(ids)
        before = tape[block]
        with hooked(lm.model, (Site(lm.layout.mlp_to_stream(1)), lambda output: output + moved), tape.read(block)):
            lm.model(ids)
    torch.testing.assert_close(tape[block] - before, moved.expand_as(before))


def module_at_subject(lm: LM, prompt: str, subject: str, layer: int) -> tuple[Tensor, Tensor]:
    """Input and output of the edited module at the subject's last token of a prompt."""
    module, tape = lm.layout.fc_out(layer), Tape()
    with hooked(lm.model, tape.read(Site(module, "in")), tape.read(Site(module))), torch.no_grad():
        lm.model(torch.tensor([lm.prompt_tokens(fill(prompt, subject))]))
    place = lm.subject_position(prompt, subject, "subject_last")
    return tape[Site(module, "in")][0, place], tape[Site(module)][0, place]


@pytest.mark.parametrize("family", FAMILIES)
def test_after_rome_the_bare_prompt_gives_v_star(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family, "float32")
    edit_all = prepared("rome", lm, resources(lm, tmp_path), "layer=1", "steps=5")
    values = edit_all.values([encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS])
    for i, (request, edit) in enumerate(zip(REQUESTS, edits_of(edit_all(REQUESTS, 0)), strict=True)):
        assert torch.linalg.matrix_rank(change(edit)) == 1
        with merged(lm, [edit]):
            key, output = module_at_subject(lm, request.prompt, request.subject, 1)
        v_star = values.bare_output[i] + values.delta[i]
        assert (output - v_star).norm() <= 1e-4 * v_star.norm()
        assert edit.diagnostics["k0_dot_u"] == pytest.approx(float(key @ edit.deltas[0].left[0]), rel=1e-3)
        assert edit.diagnostics["update_frobenius"] == pytest.approx(edit.frobenius(), rel=1e-5)


def test_r_rome_moves_the_mean_key_to_v_star(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    edit_all = prepared("r_rome", lm, resources(lm, tmp_path), "layer=1", "steps=5")
    values = edit_all.values([encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS])
    for i, edit in enumerate(edits_of(edit_all(REQUESTS, 0))):
        moved = values.mean_key[i] @ change(edit)
        torch.testing.assert_close(moved, values.bare_output[i] + values.delta[i] - values.mean_output[i])


def test_p_rome_uses_the_bare_key_alone(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    given = resources(lm, tmp_path)
    edit_all = prepared("p_rome", lm, given, "layer=1", "steps=5")
    values = edit_all.values([encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS])
    for i, edit in enumerate(edits_of(edit_all(REQUESTS, 0))):
        torch.testing.assert_close(values.bare_key[i] @ change(edit), values.delta[i])
        direction = torch.linalg.solve(given.second_moments[1].matrix, values.bare_key[i])
        torch.testing.assert_close(edit.deltas[0].left[0], direction / direction.norm(), rtol=1e-6, atol=1e-8)


def test_variants_share_one_search_and_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, calls = tiny_lm("gpt2"), []

    def counted(*args: Any) -> Any:
        calls.append(len(args[1]))
        return find_values(*args)

    monkeypatch.setattr(counterfact.editors.rome, "find_values", counted)
    given = resources(lm, tmp_path)
    first = edits_of(prepared("rome", lm, given, "steps=4")(REQUESTS, 0))
    assert sum(calls) == len(REQUESTS)
    again = edits_of(prepared("rome", lm, given, "steps=4")(REQUESTS, 0))
    prepared("r_rome", lm, given, "steps=4")(REQUESTS, 0)
    prepared("rome", lm, given, "steps=4", "covariance=false")(REQUESTS, 0)
    assert sum(calls) == len(REQUESTS)
    prepared("rome", lm, given, "steps=5")(REQUESTS, 0)
    assert sum(calls) == 2 * len(REQUESTS)
    for path in (tmp_path / "values").iterdir():
        content = bytearray(path.read_bytes())
        content[-5] ^= 255
        path.write_bytes(content)
    mended = edits_of(prepared("rome", lm, given, "steps=4")(REQUESTS, 0))
    assert sum(calls) == 3 * len(REQUESTS)
    for edit, second, third in zip(first, again, mended, strict=True):
        assert torch.equal(change(edit), change(second)) and torch.equal(change(edit), change(third))


def test_values_of_other_code_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gpt2")
    prepared("rome", lm, resources(lm, tmp_path), "steps=2")(REQUESTS[:1], 0)
    assert len(list((tmp_path / "values").iterdir())) == 1
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("counterfact.editing.values.code_hash", lambda *names: asked.append(names) or "other code")
    prepared("rome", lm, resources(lm, tmp_path), "steps=2")(REQUESTS[:1], 0)
    assert len(list((tmp_path / "values").iterdir())) == 2
    searched = {name.rpartition(".")[0] for name in (find_values.__module__, plain.__name__, Site.__module__)}
    assert searched <= set(asked[0])


def test_a_nan_stays_in_its_record(tmp_path: Path) -> None:
    lm = tiny_lm("gpt_neox")  # its head is not its embedding
    usual = {token for template in TEMPLATES for token in lm.tokens(fill(template, REQUESTS[0].filled))}
    bad = next(token for token in lm.tokens(REQUESTS[8].filled) if token not in usual)
    edit_all = prepared("rome", lm, resources(lm, tmp_path), "steps=4")
    with broken_embedding(lm, bad):
        results = edit_all(REQUESTS, 0)
    hit = {r.id for r in REQUESTS if bad in lm.tokens(r.filled) or bad in lm.tokens(r.subject)}
    assert hit and {r.id for r in results if isinstance(r, Failure)} == hit
    assert "nan" in next(r.reason for r in results if isinstance(r, Failure))
    alone = edits_of(prepared("rome", lm, resources(lm, tmp_path / "clean"), "steps=4")(REQUESTS, 0))
    for result, expected in zip(results, alone, strict=True):
        if isinstance(result, Edit):
            torch.testing.assert_close(change(result), change(expected))


def test_a_key_that_the_direction_does_not_see_is_a_failure() -> None:
    values = find_values(
        tiny_lm("gpt2"),
        [encode(tiny_lm("gpt2"), REQUESTS[0], TEMPLATES, "subject_last", kl_row=True)],
        RomeSettings(layer=1, steps=2),
    )
    one = values.at(0)
    blind = replace(one, bare_key=torch.zeros_like(one.bare_key))
    lm = tiny_lm("gpt2")
    rome = counterfact.editors.rome.Rome(lm, RomeSettings(layer=1), "rome", TEMPLATES, None, default_plan(lm), Path())
    result = rome.edit(REQUESTS[0], (blind, torch.ones_like(one.bare_key)))
    assert isinstance(result, Failure) and "no rank-one solution" in result.reason


def test_out_of_memory_halves_the_batch_and_then_fails_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = tiny_lm("gpt2"), []

    def cramped(lm: LM, batch: Any, settings: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 3 or any(item.target == tuple(lm.target_tokens("Oslo")) for item in batch):
            raise torch.OutOfMemoryError("no room")
        return find_values(lm, batch, settings)

    monkeypatch.setattr(counterfact.editors.rome, "find_values", cramped)
    plan = Plan()
    results = prepared("rome", lm, resources(lm, tmp_path, plan=plan), "steps=2")(REQUESTS, 0)
    assert results[0] == Failure(0, "out of memory with one request")
    assert [edit.request_ids for edit in edits_of(results[1:])] == [(i,) for i in range(1, 10)]
    assert plan.splits[0] == ("edit", max(sizes))


def test_batches_hold_no_more_than_their_tokens() -> None:
    lm = tiny_lm("gpt2")
    items = {r.id: encode(lm, r, TEMPLATES, "subject_last", kl_row=True) for r in REQUESTS}

    def size(item: Encoded) -> int:
        return item.suffixes

    for padded, used in ((True, lambda sizes: len(sizes) * max(sizes)), (False, sum)):
        batches = cut(items, size, 90, padded=padded)
        assert sorted(i for batch in batches for i in batch) == list(range(len(items)))
        assert all(used([size(items[i]) for i in b]) <= 90 or len(b) == 1 for b in batches)
        assert 1 < max(map(len, batches)) < len(items)
        whole = [[i] for batch in cut(items, size, 10**9, padded=padded) for i in batch]
        assert cut(items, size, 1, padded=padded) == whole
    assert max(map(len, cut(items, size, 10**9, 3))) == 3


def test_what_is_missing_is_said_before_any_work(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match="needs texts"):
        prepared("rome", lm, resources(lm, tmp_path, second_moments={}))
    with pytest.raises(BadInput, match="layers 0 to 2"):
        prepared("rome", lm, resources(lm, tmp_path), "layer=3")
    with pytest.raises(BadInput, match="tokens"):
        prepared("rome", lm, resources(lm, tmp_path, context_templates=None), "context_lengths=[1]")
    for matrix, reason in ((torch.eye(3), "64 x 64"), (-torch.eye(64), "more texts")):
        broken = replace(moment(lm, 1), matrix=matrix.double())
        with pytest.raises(BadInput, match=reason):
            prepared("rome", lm, resources(lm, tmp_path, second_moments={1: broken}), "layer=1")


def test_provenance_names_templates_and_second_moment(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    found = provenance(prepared("rome", lm, resources(lm, tmp_path), "layer=2"))
    assert found["context_templates"] == list(TEMPLATES)
    assert found["second_moment"]["hash"] == moment(lm, 2).hash
    assert isinstance(
        edits_of(prepared("rome", lm, resources(lm, tmp_path), "steps=2")(REQUESTS[:1], 0))[0].deltas[0], LowRank
    )
