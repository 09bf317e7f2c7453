"""PMET: the reference's values and updates, and the rule by which its search ends."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from counterfact.editing.requests import encode
from counterfact.editors.pmet import PmetSettings, find_projections, is_said, search
from counterfact.lm.edits.edit import LowRank
from counterfact.lm.model.hooks import Site, Tape, hooked
from tests.support.editing import REQUESTS, TEMPLATES
from tests.support.many_edits import ManyEdits, change, distance, edit_of, made
from tests.support.models import tiny_lm


@pytest.mark.parametrize("prefix", ["p1_", "p4_"])
def test_values_and_updates_are_the_references(many_edits: ManyEdits, prefix: str) -> None:
    editor, requests, arrays, run = many_edits.run("pmet", prefix)
    lm = many_edits.lm
    record = encode(lm, requests[-1], editor.templates, "subject_last", kl_row=True)
    initial, delta, _ = search(lm, record, run["layers"][-1], editor.settings)
    for part, name in zip(initial + delta, ("z_attention", "z_mlp"), strict=True):
        assert distance(part, arrays[name][:, -1]) < 1e-3
    for layer, delta_of_layer in zip(run["layers"], edit_of(editor([requests], 0)).deltas, strict=True):
        assert isinstance(delta_of_layer, LowRank)
        assert distance(delta_of_layer.weight_change, arrays[f"L{layer}_upd"]) < 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "falcon"])
def test_what_is_moved_is_the_output_of_attention_and_mlp(family: str) -> None:
    lm = tiny_lm(family)
    settings = PmetSettings(layers=[1], steps=12, learning_rate=0.3, stop_loss=-1.0, clamp_norm_factor=3.0)
    record = encode(lm, REQUESTS[0], TEMPLATES, "subject_last", kl_row=True)
    initial, delta, trace = search(lm, record, 1, settings)
    tape, sites = Tape(), (Site(lm.layout.out_proj(1)), Site(lm.layout.fc_out(1)))
    with torch.no_grad(), hooked(lm.model, *map(tape.read, sites)):
        lm.model(torch.tensor([record.rows[0].ids]), use_cache=False)
    for site, part in zip(sites, initial, strict=True):
        torch.testing.assert_close(tape[site][0, record.rows[0].lookup], part)
    assert trace[-1, 1] < trace[0, 1] - 0.05
    assert bool((delta.norm(dim=1) > 0).all())
    assert bool((delta.norm(dim=1) <= 3.0 * initial.norm(dim=1) * (1 + 1e-9)).all())


def test_the_search_ends_where_the_object_is_said_and_little_else_changed() -> None:
    lm = tiny_lm("gpt2")
    record = encode(lm, REQUESTS[0], TEMPLATES[:1], "subject_last", kl_row=True)
    prompt = replace(record.rows[0], ids=tuple(lm.prompt_tokens(REQUESTS[0].filled)))
    with torch.no_grad():
        order = lm.model(torch.tensor([prompt.ids]), use_cache=False).logits[0, -1].argsort(descending=True)
    said, next_best = (replace(record, rows=(prompt, record.rows[1]), target=(int(token),)) for token in order[:2])
    settings = PmetSettings(layers=[1], steps=40, stop_loss=-1.0, kl_factor=1e-9)
    assert len(search(lm, said, 1, settings)[2]) == 1
    trace = search(lm, next_best, 1, settings)[2]
    assert 1 < len(trace) < 40, "it comes to be said, and the KL term counts for nothing"
    longer = search(lm, next_best, 1, settings.model_copy(update={"kl_factor": 100.0}))[2]
    torch.testing.assert_close(longer[0, 1], trace[0, 1])
    assert float((longer[1:, 1] / longer[:-1, 1]).min()) < 0.2, "where it is said, its own term counts a tenth"


def test_said_is_every_token_of_every_context() -> None:
    lm = tiny_lm("gpt2")
    record = encode(lm, REQUESTS[2], TEMPLATES[:2], "subject_last", kl_row=True)
    length = max(len(row.ids) for row in record.rows)
    log_p = torch.zeros(3, length, lm.vocabulary)
    for place, row in enumerate(record.rows[:-1]):
        first = len(row.ids) - len(record.target)
        for step, token in enumerate(record.target):
            assert not is_said(log_p, record)
            log_p[place, first + step, token] = 1.0
    assert is_said(log_p, record)


def test_targets_are_those_of_the_mlp_and_the_last_layer_gets_all(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    record = encode(lm, REQUESTS[0], TEMPLATES, "subject_last", kl_row=True)
    settings = PmetSettings(layers=[0, 1], steps=4)
    found = find_projections(lm, [record], 1, settings)
    initial, delta, _ = search(lm, record, 1, settings)
    torch.testing.assert_close(found.wanted[0], initial[1] + delta[1])
    edit = made(lm, "pmet", tmp_path, [REQUESTS[0]], "layers=[0,1]", "steps=4", "moment_weight=0.0001")
    assert bool(change(edit).isfinite().all())
    first, last = edit.deltas
    assert isinstance(first, LowRank) and isinstance(last, LowRank)
    torch.testing.assert_close(2**0.5 * first.right[0], delta[1], rtol=1e-6, atol=1e-9)
