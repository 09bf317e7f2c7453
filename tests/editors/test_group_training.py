"""FT-M and LoRA: the reference's numbers, FT where there is one request, one training for a whole group."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import counterfact.editors.finetune
from counterfact.contracts.editors import EDITORS, Failure, Resources
from counterfact.core.errors import BadInput
from counterfact.editing.requests import encode
from counterfact.editing.teacher_forcing import Labels
from counterfact.editors.ft_m import GroupFinetuneSettings
from counterfact.editors.lora import Lora, LoraSettings
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward.blocks import embed
from counterfact.lm.model.language_model import LM
from tests.support.editing import REQUESTS, broken_embedding, change, edits_of, nll, prepared, resources
from tests.support.many_edits import ManyEdits, distance, edit_of
from tests.support.models import EXPERTS, tiny_lm

WEIGHT_ALONE = ("f0_", "f1_", "f2_", "f3_", "f4_", "f6_")


@pytest.mark.parametrize("prefix", WEIGHT_ALONE)
def test_training_is_the_references(many_edits: ManyEdits, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference pads on the left and counts GPT-2's positions from the padding on, which ours does not.
    monkeypatch.setattr(counterfact.editors.finetune, "embed", at_shifted_positions)
    run = next(one for one in many_edits.read("ft_m.json")["runs"] if one["prefix"] == prefix)
    given, arrays = run["settings"], many_edits.arrays("ft_m", prefix)
    settings = GroupFinetuneSettings(
        layer=given["layers"][0],
        steps=given["num_steps"],
        learning_rate=given["lr"],
        batch_size=given["batch_size"],
        bound=given["norm_constraint"] or None,
    )
    requests = many_edits.requests(run)
    edit = edit_of(EDITORS.get("ft_m").prepare(many_edits.lm, settings, Resources())([requests], 0))
    assert edit.diagnostics["steps"] == len(run["losses"])
    assert edit.diagnostics["loss"] == pytest.approx(run["losses"][-1], rel=1e-3, abs=1e-5)
    assert edit.diagnostics["update_frobenius"] == pytest.approx(run["weight_change_frobenius"], rel=1e-3)
    assert distance(change(edit), arrays["weight_change"]) < 1e-2
    labels = Labels.of(many_edits.lm, [encode(many_edits.lm, one, ["{}"], "last", kl_row=False) for one in requests])
    masks = [row for batch in run["label_mask_first_epoch"] for row in batch]
    assert [int((weights > 0).sum()) for weights in labels.weights] == [sum(mask) for mask in masks]


def at_shifted_positions(lm: LM, ids: Tensor) -> Tensor:
    """Embed rows padded on the right with 0 at the positions they have when padded on the left."""
    length = ids.shape[1]
    missing = torch.tensor([length - max(at for at, token in enumerate(row) if token) - 1 for row in ids.tolist()])
    return embed(lm, ids, (torch.arange(length) + missing[:, None]).clamp(max=lm.max_length - 1))


def test_one_request_is_trained_as_by_ft(tmp_path: Path) -> None:
    lm, choices = tiny_lm("gpt2"), ("layer=1", "steps=6", "learning_rate=0.02")
    many, one = (prepared(name, lm, resources(lm, tmp_path), *choices) for name in ("ft_m", "ft"))
    for edit, expected in zip(edits_of(many(REQUESTS[:3], 0)), edits_of(one(REQUESTS[:3], 0)), strict=True):
        torch.testing.assert_close(change(edit), change(expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "falcon"])
@pytest.mark.parametrize("name", ["ft_m", "lora"])
def test_one_edit_teaches_all_requests_of_a_group(name: str, family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family)
    choices = ["steps=40", "batch_size=2", "learning_rate=0.02"]
    edit = edit_of(prepared(name, lm, resources(lm, tmp_path), *choices).editor([list(REQUESTS[:4])], 0))
    assert edit.request_ids == (0, 1, 2, 3)
    assert edit.diagnostics["loss"] < 0.5
    for request in REQUESTS[:4]:
        assert nll(lm, request, edit) < 0.5 * nll(lm, request)


@pytest.mark.parametrize("name", ["ft_m", "lora"])
def test_a_long_training_is_told_of(name: str, tmp_path: Path) -> None:
    lm, told = tiny_lm("gpt2"), list[tuple[str, int, int | None]]()
    given = resources(lm, tmp_path, progress=lambda *what: told.append(what))
    editor = prepared(name, lm, given, "steps=3", "batch_size=2", "learning_rate=0.001", "stop_loss=0").editor
    editor([list(REQUESTS[:2]), list(REQUESTS[:3])], 0)
    assert told == [("rounds of training", done, 3) for done in (1, 2, 3)], "the first group is one step a round"


def test_training_ends_where_it_is_told_and_stays_in_its_box(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    for name, rounds in (("ft_m", 25), ("lora", 3)):
        far = prepared(name, lm, resources(lm, tmp_path), f"steps={rounds}", "stop_loss=1000.0")
        edit = edit_of(far.editor([list(REQUESTS[:3])], 0))
        assert edit.diagnostics["steps"] == 3 and edit.frobenius() == 0, "one round, and nothing to step for"
    boxed = prepared("ft_m", lm, resources(lm, tmp_path), "bound=0.001")
    assert change(edit_of(boxed.editor([list(REQUESTS[:3])], 0))).abs().max() <= 0.001


def test_lora_is_of_low_rank_and_random_in_its_start_alone(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    edit_all = prepared("lora", lm, resources(lm, tmp_path), "steps=3", "rank=2").editor
    first, again, other = (edit_of(edit_all([list(REQUESTS[:2])], seed)) for seed in (1, 1, 2))
    assert first.modules == tuple(n(layer) for layer in range(lm.n_layers) for n in (lm.layout.fc_in, lm.layout.fc_out))
    for one, same, changed in zip(first.deltas, again.deltas, other.deltas, strict=True):
        assert isinstance(one, LowRank) and isinstance(same, LowRank) and isinstance(changed, LowRank)
        assert one.left.shape[0] == 2 and torch.equal(one.left, same.left) and torch.equal(one.right, same.right)
        assert not torch.allclose(one.left, changed.left)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi3"])
def test_what_lora_trains_is_what_its_edit_does(family: str) -> None:
    lm = tiny_lm(family)
    parts = Lora(lm, LoraSettings(rank=3), 0)
    with torch.no_grad():
        for right in parts.right:
            right.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    items = [encode(lm, request, ["{}"], "last", kl_row=False) for request in REQUESTS[:3]]
    trained = parts.losses(parts.lay_out(items)).detach()
    blank = Lora(lm, LoraSettings(rank=3), 0)
    edit = edit_of_parts(parts)
    with merged(lm, [edit]):
        torch.testing.assert_close(blank.losses(blank.lay_out(items)).detach(), trained, rtol=1e-5, atol=1e-6)


def edit_of_parts(parts: Lora) -> Edit:
    return Edit(parts.deltas(), ())


@pytest.mark.parametrize("name", ["ft_m", "lora"])
def test_a_group_with_a_nan_fails_alone(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt_neox")
    token = lm.prompt_tokens(REQUESTS[8].filled)[-1]
    edit_all = prepared(name, lm, resources(lm, tmp_path), "steps=2").editor
    with broken_embedding(lm, token):
        hit, well = edit_all([[REQUESTS[8], replace(REQUESTS[8], id=11)], [REQUESTS[7]]], 0)
    assert hit.edit is None and [failure.id for failure in hit.failures] == [8, 11]
    assert all("loss became nan" in failure.reason for failure in hit.failures if isinstance(failure, Failure))
    assert token in lm.prompt_tokens(REQUESTS[7].filled) or well.edit is not None


@pytest.mark.parametrize("kind", EXPERTS)
def test_models_of_several_experts_are_refused(kind: str, tmp_path: Path) -> None:
    lm: LM = tiny_lm(kind)
    for name in ("ft_m", "lora"):
        with pytest.raises(BadInput, match="several experts in each MLP"):
            prepared(name, lm, resources(lm, tmp_path, second_moments={}))([REQUESTS[0]], 0)
