"""PMET: the reference's values and updates, the batched search against the plain one, and the rule by which it ends."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.editors import Failure
from counterfact.core.prompts import fill
from counterfact.editing import plain
from counterfact.editing.requests import Encoded, encode
from counterfact.editing.value_search import find_projections
from counterfact.editing.values import Projections
from counterfact.editors.pmet import PmetSettings
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from tests.support.editing import REQUESTS, TEMPLATES, broken_embedding, edits_of, prepared, resources
from tests.support.many_edits import ManyEdits, change, distance, edit_of, made
from tests.support.models import EDITABLE, tiny_lm

ALWAYS = ("gpt2", "gptj", "llama", "gemma2", "olmo2", "bloom", "falcon", "opt")
"""Kinds of blocks: attention and MLP one after the other or side by side, norms after them, sums of their own."""
KINDS = [kind if kind in ALWAYS else pytest.param(kind, marks=pytest.mark.soak) for kind in EDITABLE]
SEARCHES = (find_projections, plain.find_projections)
QUICK: dict[str, Any] = {"steps": 8, "learning_rate": 0.3, "kl_factor": 0.05, "clamp_norm_factor": 3.0}


def encoded(lm: LM, *requests: int, position: Any = "subject_last") -> list[Encoded]:
    return [encode(lm, REQUESTS[i], TEMPLATES, position, kl_row=True) for i in requests]


def likely(lm: LM, rank: int, templates: Sequence[str] = TEMPLATES) -> Encoded:
    """A record whose new object is a token that the model would say, the `rank`-th likeliest over all contexts."""
    record = encode(lm, REQUESTS[0], templates, "subject_last", kl_row=True)
    cut = 1 - len(record.target) or None  # rows hold all of the target but its last token
    contexts = [replace(row, ids=row.ids[:cut]) for row in record.rows[:-1]]
    with torch.no_grad():
        log_p = torch.stack([lm.model(torch.tensor([row.ids])).logits[0, -1].log_softmax(-1) for row in contexts])
    target = int(log_p.mean(0).argsort(descending=True)[rank])
    return replace(record, rows=(*contexts, record.rows[-1]), target=(target,))


def apart(found: Projections, other: Projections) -> float:
    """The largest distance of two searches' values, as a share of their norm."""
    one, two = (each.initial + each.delta for each in (found, other))
    assert one.shape == two.shape
    return float(((one - two).norm(dim=-1) / two.norm(dim=-1)).max())


@pytest.mark.parametrize("prefix", ["p1_", "p4_"])
def test_values_and_updates_are_the_references(many_edits: ManyEdits, prefix: str) -> None:
    editor, requests, arrays, run = many_edits.run("pmet", prefix)
    lm = many_edits.lm
    records = [encode(lm, request, editor.templates, "subject_last", kl_row=True) for request in requests]
    batched = find_projections(lm, records, run["layers"][-1], editor.settings)
    one_by_one = plain.find_projections(lm, records[-1:], run["layers"][-1], editor.settings)
    for place, name in enumerate(("z_attention", "z_mlp")):
        assert distance((batched.initial + batched.delta)[:, place].T, arrays[name]) < 1e-3
        assert distance((one_by_one.initial + one_by_one.delta)[0, place], arrays[name][:, -1]) < 1e-3
    for layer, delta_of_layer in zip(run["layers"], edit_of(editor([requests], 0)).deltas, strict=True):
        assert isinstance(delta_of_layer, LowRank)
        assert distance(delta_of_layer.weight_change, arrays[f"L{layer}_upd"]) < 1e-3


@pytest.mark.parametrize("family", KINDS)
def test_batched_search_is_the_plain_search(family: str) -> None:
    lm = tiny_lm(family)
    batch = [*encoded(lm, 0, 2, 4), likely(lm, 0), likely(lm, 1)]
    settings = PmetSettings(layers=[1], stop_loss=-1.0, **QUICK)
    found, expected = (find(lm, batch, 1, settings) for find in SEARCHES)
    assert torch.equal(found.passes, expected.passes)
    assert apart(found, expected) < 5e-5
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert bool((found.trace[:3, -1, 1] < found.trace[:3, 0, 1] - 0.01).all()), "what is moved reaches the stream"


@pytest.mark.parametrize(("layer", "position"), [(0, "subject_first"), (1, "last"), (2, "last")])
def test_every_position_and_the_last_layer(layer: int, position: Any) -> None:
    lm = tiny_lm("gpt2")
    batch = encoded(lm, 0, 1, 2, 3, position=position)
    found, expected = (find(lm, batch, layer, PmetSettings(layers=[layer], **QUICK)) for find in SEARCHES)
    assert apart(found, expected) < 1e-9


@pytest.mark.parametrize(("family", "dtype"), [("gpt2", "float64"), ("falcon", "float64"), ("gpt2", "bfloat16")])
def test_a_value_does_not_depend_on_those_beside_it(family: str, dtype: Any) -> None:
    lm = tiny_lm(family, dtype)
    batch, settings = [*encoded(lm, *range(6)), likely(lm, 1)], PmetSettings(layers=[1], **QUICK)
    together = find_projections(lm, batch, 1, settings)
    alone = [find_projections(lm, [record], 1, settings) for record in batch]
    assert together.delta.dtype == lm.working_dtype
    for name in ("initial", "delta"):
        one, other = getattr(together, name), torch.cat([getattr(each, name) for each in alone])
        assert (one - other).norm() <= (1e-4 if dtype == "bfloat16" else 1e-9) * other.norm()


def test_bfloat16_weights_are_searched_in_float32() -> None:
    lm = tiny_lm("gpt2", "bfloat16")
    found, expected = (find(lm, encoded(lm, 0, 1, 2), 1, PmetSettings(layers=[1], **QUICK)) for find in SEARCHES)
    assert found.delta.dtype == expected.delta.dtype == torch.float32
    assert apart(found, expected) < 5e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "falcon"])
def test_what_is_moved_is_the_output_of_attention_and_mlp(family: str) -> None:
    lm = tiny_lm(family)
    settings = PmetSettings(layers=[1], steps=12, learning_rate=0.3, stop_loss=-1.0, clamp_norm_factor=3.0)
    [record] = encoded(lm, 0)
    found = find_projections(lm, [record], 1, settings)
    tape, sites = Tape(), (Site(lm.layout.out_proj(1)), Site(lm.layout.fc_out(1)))
    with torch.no_grad(), hooked(lm.model, *map(tape.read, sites)):
        lm.model(torch.tensor([record.rows[0].ids]), use_cache=False)
    for site, part in zip(sites, found.initial[0], strict=True):
        torch.testing.assert_close(tape[site][0, record.rows[0].lookup], part)
    assert found.trace[0, -1, 1] < found.trace[0, 0, 1] - 0.05
    assert bool((found.delta.norm(dim=2) > 0).all())
    assert bool((found.delta.norm(dim=2) <= 3.0 * found.initial.norm(dim=2) * (1 + 1e-9)).all())


@pytest.mark.parametrize("find", SEARCHES)
def test_the_search_ends_where_the_object_is_said_and_little_else_changed(find: Any) -> None:
    lm = tiny_lm("gpt2")
    batch = [likely(lm, rank, TEMPLATES[:1]) for rank in (0, 1)]
    settings = PmetSettings(layers=[1], steps=40, stop_loss=-1.0, kl_factor=1e-9)
    found = find(lm, batch, 1, settings)
    first, second = found.passes.tolist()
    assert first == 1
    assert 1 < second < 40, "it comes to be said, and the KL term counts for nothing"
    longer = find(lm, batch, 1, settings.model_copy(update={"kl_factor": 100.0})).trace[1, :, 1]
    torch.testing.assert_close(longer[0], found.trace[1, 0, 1])
    assert float((longer[1:] / longer[:-1]).nan_to_num(1).min()) < 0.2, "where it is said, its term counts a tenth"


@pytest.mark.parametrize(("family", "contexts"), [("gpt2", 1), ("gptj", 1), ("gptj", 4)])
def test_each_record_of_a_batch_is_said_and_ends_by_itself(family: str, contexts: int) -> None:
    lm, templates = tiny_lm(family), TEMPLATES[:contexts]
    never = encode(lm, REQUESTS[2], templates, "subject_last", kl_row=True)
    batch = [never, *(likely(lm, rank, templates) for rank in range(4))]
    for kl_factor in (1.0, 1e-9):
        given = {**QUICK, "steps": 20, "stop_loss": -1.0, "kl_factor": kl_factor}
        found, expected = (find(lm, batch, 1, PmetSettings(layers=[1], **given)) for find in SEARCHES)
        assert torch.equal(found.passes, expected.passes)
        torch.testing.assert_close(found.trace, expected.trace, rtol=1e-5, atol=1e-5, equal_nan=True)
        falls = (found.trace[:, 1:, 1] / found.trace[:, :-1, 1]).nan_to_num(1).amin(1) < 0.2
        if kl_factor == 1.0:
            assert falls.any() and not falls.all(), "where it is said, its term counts a tenth"
        else:
            assert found.passes[0] == 20 > found.passes.min(), "where it is said, nothing holds it"


def test_said_is_every_token_of_every_context() -> None:
    lm = tiny_lm("gpt2")
    record = encode(lm, REQUESTS[2], TEMPLATES[:2], "subject_last", kl_row=True)
    length = max(len(row.ids) for row in record.rows)
    log_p = torch.zeros(3, length, lm.vocabulary)
    for place, row in enumerate(record.rows[:-1]):
        first = len(row.ids) - len(record.target)
        for step, token in enumerate(record.target):
            assert not plain.is_said(log_p, record)
            log_p[place, first + step, token] = 1.0
    assert plain.is_said(log_p, record)


def test_targets_are_those_of_the_mlp_and_the_last_layer_gets_all(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    found = find_projections(lm, encoded(lm, 0), 1, PmetSettings(layers=[0, 1], steps=4))
    torch.testing.assert_close(found.wanted[0], found.initial[0, 1] + found.delta[0, 1])
    edit = made(lm, "pmet", tmp_path, [REQUESTS[0]], "layers=[0,1]", "steps=4", "moment_weight=0.0001")
    assert bool(change(edit).isfinite().all())
    first, last = edit.deltas
    assert isinstance(first, LowRank) and isinstance(last, LowRank)
    torch.testing.assert_close(2**0.5 * first.right[0], found.delta[0, 1], rtol=1e-6, atol=1e-9)


def test_what_was_found_is_kept_apart_from_what_other_methods_find(tmp_path: Path) -> None:
    lm, choices = tiny_lm("gpt2"), ("layers=[1]", "steps=3", "learning_rate=0.5", "kl_factor=0.0625")
    first = made(lm, "pmet", tmp_path, list(REQUESTS[:2]), *choices)
    assert torch.equal(change(made(lm, "pmet", tmp_path, list(REQUESTS[:2]), *choices)), change(first))
    assert len(list((tmp_path / "values").iterdir())) == 1
    made(lm, "memit", tmp_path, list(REQUESTS[:2]), *choices)
    assert len(list((tmp_path / "values").iterdir())) == 2


def test_a_nan_stays_in_its_record(tmp_path: Path) -> None:
    lm = tiny_lm("gpt_neox")  # its head is not its embedding
    usual = {token for template in TEMPLATES for token in lm.tokens(fill(template, REQUESTS[0].filled))}
    bad = next(token for token in lm.tokens(REQUESTS[8].filled) if token not in usual)
    choices = ("layers=[0,1]", "steps=4")
    with broken_embedding(lm, bad):
        results = prepared("pmet", lm, resources(lm, tmp_path), *choices)(REQUESTS, 0)
    hit = {r.id for r in REQUESTS if bad in lm.tokens(r.filled) or bad in lm.tokens(r.subject)}
    assert hit and {r.id for r in results if isinstance(r, Failure)} == hit
    assert "nan" in next(r.reason for r in results if isinstance(r, Failure))
    alone = edits_of(prepared("pmet", lm, resources(lm, tmp_path / "clean"), *choices)(REQUESTS, 0))
    for result, expected in zip(results, alone, strict=True):
        if isinstance(result, Edit):
            torch.testing.assert_close(change(result), change(expected))
