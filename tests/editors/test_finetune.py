"""FT and FT+L: the batched training against a plain one that writes into the model, and what each constant does."""

from pathlib import Path

import pytest
import torch

import counterfact.editors.finetune
from counterfact.contracts.editors import Failure
from counterfact.core.errors import BadInput
from counterfact.core.records import Request
from counterfact.editing.plain import train_alone
from counterfact.editing.requests import encode
from counterfact.editors.finetune import BoxedFinetuneSettings, FinetuneSettings, lay_out, train
from counterfact.lm.edits.edit import Dense, Edit
from counterfact.lm.planning.batch_plan import Plan
from tests.support.editing import REQUESTS, broken_embedding, change, edits_of, prepared, resources
from tests.support.models import FAMILIES, IN_FLOAT32, tiny_lm


@pytest.mark.parametrize("bound", [None, 0.02])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_training_is_the_plain_training(family: str, bound: float | None) -> None:
    lm = tiny_lm(family)
    records = [encode(lm, request, ["{}"], "last", kl_row=False) for request in REQUESTS]
    batch = lay_out(lm, records, 1)
    free = FinetuneSettings(layer=1, learning_rate=0.02, steps=10, stop_loss=-1.0)
    lowest = sorted(min(trained.losses) for trained in train(lm, batch, free, bound))
    settings = free.model_copy(update={"stop_loss": lowest[len(lowest) // 2] + 1e-3})  # half of them get there
    found = train(lm, batch, settings, bound)
    for record, trained in zip(records, found, strict=True):
        expected = train_alone(lm, record, settings, bound)
        loose = 1e3 if family in IN_FLOAT32 else 1.0  # its attention is in float32 whatever the model's dtype
        assert trained.losses == pytest.approx(expected.losses, rel=1e-8 * loose)
        torch.testing.assert_close(trained.change, expected.change, rtol=1e-5, atol=1e-8 * loose)
    lengths = [len(trained.losses) for trained in found]
    assert min(lengths) < max(lengths) == settings.steps, "the test must see records that end early and that do not"


@pytest.mark.parametrize("name", ["ft", "ft_l"])
def test_the_plain_engine_makes_the_same_edits(name: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    batched = edits_of(prepared(name, lm, resources(lm, tmp_path), "steps=4")(REQUESTS, 0))
    one_by_one = edits_of(prepared(name, lm, resources(lm, tmp_path, engine="plain"), "steps=4")(REQUESTS, 0))
    for edit, other in zip(batched, one_by_one, strict=True):
        torch.testing.assert_close(change(edit), change(other), rtol=1e-5, atol=1e-8)


def test_targets_of_several_tokens_are_teacher_forced() -> None:
    lm = tiny_lm("gpt2")
    request = Request(0, "{} is in", "Bellweather Mills", "the northern harbour of Zürich")
    assert len(lm.target_tokens(request.target_new)) > 3
    batch = lay_out(lm, [encode(lm, request, ["{}"], "last", kl_row=False)], 1)
    (trained,) = train(lm, batch, FinetuneSettings(layer=1, learning_rate=0.02, steps=300), None)
    # All tokens scored at one position could not come below log(number of tokens).
    assert trained.losses[-1] < 0.01


def test_no_weight_leaves_the_box(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    for edit in edits_of(prepared("ft_l", lm, resources(lm, tmp_path), "bound=0.001", "steps=4")(REQUESTS, 0)):
        assert change(edit).abs().max() <= 0.001 and (change(edit).abs() == 0.001).double().mean() > 0.5
        assert isinstance(edit.deltas[0], Dense)


def test_one_request_at_a_time_when_memory_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = tiny_lm("gpt2"), []
    expected = edits_of(prepared("ft", lm, resources(lm, tmp_path), "steps=3")(REQUESTS, 0))

    def counted(*args: object) -> object:
        sizes.append(len(args[1].keys))  # type: ignore[attr-defined]
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(counterfact.editors.finetune, "train", counted)
    small = resources(lm, tmp_path, plan=Plan(weight_memory=1))
    for found, wanted in zip(edits_of(prepared("ft", lm, small, "steps=3")(REQUESTS, 0)), expected, strict=True):
        torch.testing.assert_close(change(found), change(wanted))
    assert sizes == [1] * len(REQUESTS)


def test_out_of_memory_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, plan = tiny_lm("gpt2"), Plan()

    def cramped(*args: object) -> object:
        if len(args[1].keys) > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("no room")
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(counterfact.editors.finetune, "train", cramped)
    results = prepared("ft", lm, resources(lm, tmp_path, plan=plan), "steps=3")(REQUESTS, 0)
    assert [edit.request_ids for edit in edits_of(results)] == [(request.id,) for request in REQUESTS]
    assert plan.splits


def test_a_nan_stays_in_its_record(tmp_path: Path) -> None:
    lm = tiny_lm("gpt_neox")  # its head is not its embedding
    rows = {r.id: {*lm.prompt_tokens(r.filled), *lm.target_tokens(r.target_new)[:-1]} for r in REQUESTS}
    bad = next(token for token in lm.tokens(REQUESTS[8].filled) if sum(token in row for row in rows.values()) < 5)
    hit = {i for i, row in rows.items() if bad in row}
    edit_all = prepared("ft", lm, resources(lm, tmp_path), "steps=3")
    expected = edit_all(REQUESTS, 0)
    with broken_embedding(lm, bad):
        results = edit_all(REQUESTS, 0)
    assert 0 < len(hit) < len(REQUESTS) and {r.id for r in results if isinstance(r, Failure)} == hit
    for result, wanted in zip(results, expected, strict=True):
        if isinstance(result, Edit) and isinstance(wanted, Edit):
            torch.testing.assert_close(change(result), change(wanted))


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    for override in ("layer=9", "bound=0", "learning_rate=-1.0", "learning_rate='5e-4'", "lr=0.1", "steps=0"):
        with pytest.raises(BadInput):
            prepared("ft_l", lm, resources(lm, tmp_path), override)
    assert BoxedFinetuneSettings.scaled(48)["bound"] == 5e-4 and BoxedFinetuneSettings.scaled(36)["bound"] == 1e-3
