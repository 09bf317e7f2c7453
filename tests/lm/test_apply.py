"""Edits per row equal edits merged one row at a time; merging is undone to the bit; files keep edits and check them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.lm.edits import apply
from counterfact.lm.edits.apply import EditStack, merged, per_row
from counterfact.lm.edits.edit import Dense, Edit, LowRank, load_edits, read_meta, save_edits
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from tests.lm.test_hooks import hooks
from tests.support.models import FAMILIES, INNER, WIDTH, rounding, tiny_lm


def random_low(lm: LM, module: str, rank: int, seed: int, dtype: torch.dtype = torch.float64) -> LowRank:
    d_in, d_out = weight_shape(lm.model, module)
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(rank, d, generator=generator, dtype=dtype) * 0.2 for d in (d_in, d_out))
    return LowRank(module, left, right)


def random_dense(lm: LM, module: str, seed: int) -> Dense:
    generator = torch.Generator().manual_seed(seed)
    return Dense(module, torch.randn(weight_shape(lm.model, module), generator=generator, dtype=torch.float64) * 0.1)


def some_edits(lm: LM) -> list[Edit]:
    """RaggedLayout ranks, several deltas on one module, both kinds, several modules, none at all."""
    down, up, other = lm.layout.fc_out(1), lm.layout.fc_in(1), lm.layout.fc_out(2)
    return [
        Edit((random_low(lm, down, 1, 0),), (0,)),
        Edit((random_low(lm, down, 3, 1), random_low(lm, down, 2, 2), random_low(lm, other, 1, 3)), (1,)),
        Edit((random_dense(lm, down, 4), random_dense(lm, down, 5), random_dense(lm, up, 6)), (2,)),
        Edit((random_dense(lm, other, 7), random_low(lm, down, 2, 8), random_dense(lm, down, 9)), (3,)),
        Edit((), (4,)),
    ]


def ids(lm: LM, rows: int, tokens: int = 9) -> Tensor:
    return torch.randint(2, lm.vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(3))


def one_by_one(lm: LM, edits: list[Edit], owners: list[int], tokens: Tensor) -> Tensor:
    rows = []
    for row, owner in zip(tokens, owners, strict=True):
        with merged(lm, [edits[owner]] if owner >= 0 else []):
            rows.append(lm.model(row[None], use_cache=False).logits)
    return torch.cat(rows)


OWNERS = [2, 0, -1, 3, 1, 2, 4, -1, 0, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_per_row_equals_merged(family: str) -> None:
    lm = tiny_lm(family)
    edits, tokens = some_edits(lm), ids(lm, len(OWNERS))
    clean = lm.model(tokens, use_cache=False).logits
    with per_row(lm, edits, OWNERS):
        found = lm.model(tokens, use_cache=False).logits
    torch.testing.assert_close(found, one_by_one(lm, edits, OWNERS, tokens), rtol=0, atol=rounding(family))
    moved = (found - clean).abs().amax((1, 2))
    for owner, distance in zip(OWNERS, moved.tolist(), strict=True):
        assert distance > 0.1 if owner in (0, 1, 2, 3) else distance == 0
    assert hooks(lm.model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_per_row_equals_merged_in_float32(family: str) -> None:
    lm = tiny_lm(family, "float32")
    edits, tokens = some_edits(lm), ids(lm, len(OWNERS))
    with per_row(lm, edits, torch.tensor(OWNERS)):
        found = lm.model(tokens).logits
    expected = one_by_one(lm, edits, OWNERS, tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("owners", [OWNERS, [1] * 4, [-1] * 2, [3, 3, -1]])
def test_rows_of_an_edit_are_multiplied_together_or_apart(
    family: str, owners: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(family)
    edits, tokens = some_edits(lm), ids(lm, len(owners))
    expected = one_by_one(lm, edits, owners, tokens)
    for shared in (0, 10**9):
        monkeypatch.setattr(apply, "SHARED", shared)
        with per_row(lm, edits, owners):
            found = lm.model(tokens, use_cache=False).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=rounding(family))


def test_what_many_rows_share_is_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, rows = tiny_lm(), 200
    edit, tokens = Edit((random_low(lm, lm.layout.fc_out(1), 9, 0),), (0,)), ids(lm, rows)
    monkeypatch.setattr(apply, "low_rank_pairs", None)
    with per_row(lm, [edit], [0] * rows):
        found = lm.model(tokens, use_cache=False).logits
    with merged(lm, [edit]):
        torch.testing.assert_close(found, lm.model(tokens, use_cache=False).logits, rtol=0, atol=rounding("gpt2"))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_many_facts_in_one_edit_are_multiplied_out(family: str) -> None:
    lm, rank = tiny_lm(family), 200
    down, up = lm.layout.fc_out(1), lm.layout.fc_in(1)
    many = Edit(
        (random_low(lm, down, rank // 2, 0), random_low(lm, down, rank // 2, 1), random_low(lm, up, 1, 2)), (0,)
    )
    edits, owners, tokens = [many, Edit((random_low(lm, down, 1, 3),), (1,))], [0, 1, -1, 0], ids(lm, 4)
    taken = [left.shape[1] for left, _ in EditStack(lm, edits)._low.values()]
    assert taken == [1, 1]
    with per_row(lm, edits, owners):
        found = lm.model(tokens, use_cache=False).logits
    expected = one_by_one(lm, edits, owners, tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(family) * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bfloat16_model_is_edited_in_float32(family: str) -> None:
    lm = tiny_lm(family, "bfloat16")
    name = lm.layout.fc_out(1)
    # Ten large changes that cancel: in bfloat16 their sum would be far from nothing.
    low = random_low(lm, name, 5, 0, torch.float32)
    edit = Edit((low, LowRank(name, -low.left, low.right)), (0,))
    tokens = ids(lm, 2)
    clean = lm.model(tokens).logits
    with per_row(lm, [edit], [0, -1]):
        found = lm.model(tokens).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, clean, rtol=0, atol=0.1)
    assert torch.equal(found[1], clean[1])


def test_all_edits_merged_are_the_sum_of_them() -> None:
    lm = tiny_lm()
    edits, tokens = some_edits(lm)[:4], ids(lm, 2)
    together = Edit(tuple(delta for edit in edits for delta in edit.deltas), (0, 1, 2, 3))
    with merged(lm, edits):
        expected = lm.model(tokens).logits
    with per_row(lm, [together], [0, 0]):
        torch.testing.assert_close(lm.model(tokens).logits, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_is_undone_bit_for_bit(family: str, dtype: str) -> None:
    lm = tiny_lm(family, dtype)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), merged(lm, some_edits(lm)):
        assert not torch.equal(
            lm.model.state_dict()[f"{lm.layout.fc_out(1)}.weight"], before[f"{lm.layout.fc_out(1)}.weight"]
        )
        _ = 1 / 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())


def test_what_does_not_fit_raises_before_anything_is_changed() -> None:
    lm = tiny_lm()
    good = random_low(lm, lm.layout.fc_out(0), 1, 0)
    turned = Edit((good, LowRank(lm.layout.fc_out(1), torch.zeros(1, WIDTH), torch.zeros(1, INNER))), (0,))
    nowhere = Edit((good, Dense("transformer.h.9.mlp.c_proj", torch.zeros(INNER, WIDTH))), (0,))
    before = lm.model.state_dict()[f"{lm.layout.fc_out(0)}.weight"].clone()
    for way in (lambda edit: per_row(lm, [edit], [0]), lambda edit: merged(lm, [edit])):
        with pytest.raises(ValueError, match=r"expected a change of shape \(64, 32\), got \(32, 64\)"), way(turned):
            pass
        with pytest.raises(LookupError, match="no module named"), way(nowhere):
            pass
    assert torch.equal(lm.model.state_dict()[f"{lm.layout.fc_out(0)}.weight"], before)
    assert hooks(lm.model) == 0
    one = [Edit((good,), (0,))]
    with pytest.raises(ValueError, match="edit indices from -1 to 0, got 1"), per_row(lm, one, [0, 1]):
        pass
    with pytest.raises(ValueError, match="with 2 rows, got"), per_row(lm, one, [0, 0]):
        lm.model(ids(lm, 3))
    assert hooks(lm.model) == 0
    with pytest.raises(ValueError, match=r"left \(rank, d_in\)"):
        LowRank("m", torch.zeros(2, 3), torch.zeros(1, 3))


@pytest.mark.parametrize("kind", ["low", "dense"])
def test_an_edit_with_nan_spoils_its_own_row_only(kind: str) -> None:
    lm = tiny_lm()
    good = some_edits(lm)[1]
    name = lm.layout.fc_out(1)
    delta = random_low(lm, name, 4, 0) if kind == "low" else random_dense(lm, name, 0)
    (delta.left if isinstance(delta, LowRank) else delta.weight_change).fill_(torch.nan)
    tokens = ids(lm, 3)
    with per_row(lm, [good], [0, -1, -1]):
        expected = lm.model(tokens).logits
    with per_row(lm, [good, Edit((delta,), (1,))], [0, 1, -1]):
        found = lm.model(tokens).logits
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


def test_gradients_reach_the_input_of_an_edited_module() -> None:
    lm = tiny_lm()
    hidden = lm.model.get_input_embeddings()(ids(lm, 5)).detach().requires_grad_()
    with per_row(lm, some_edits(lm), [0, 1, 2, 3, -1]):
        lm.model(inputs_embeds=hidden).logits.square().sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_edits_come_back_from_a_file(tmp_path: Path) -> None:
    lm = tiny_lm()
    edits = [*some_edits(lm), Edit((), (5, 6), {"norm": 1.5})]
    path = tmp_path / "edits.safetensors"
    save_edits(path, edits, {"model": lm.identity, "editor": "é"})
    back = load_edits(path, lm)
    assert read_meta(path) == {"model": lm.identity, "editor": "é"}
    assert [edit.request_ids for edit in back] == [(0,), (1,), (2,), (3,), (4,), (5, 6)]
    assert back[-1].diagnostics == {"norm": 1.5}
    assert [edit.frobenius() for edit in back] == [edit.frobenius() for edit in edits]
    tokens = ids(lm, len(OWNERS))
    with per_row(lm, edits, OWNERS):
        expected = lm.model(tokens).logits
    with per_row(lm, back, OWNERS):
        assert torch.equal(lm.model(tokens).logits, expected)


def test_edits_for_another_model_are_refused(tmp_path: Path) -> None:
    lm, path = tiny_lm(), tmp_path / "edits.safetensors"
    save_edits(path, some_edits(lm), {"model": {**lm.identity, "weights_hash": "0123456789"}})
    with pytest.raises(BadInput, match=f"with weights 01234567, not for tiny-gpt2 with weights {lm.weights_hash[:8]}"):
        load_edits(path, lm)
    assert len(load_edits(path, lm, any_model=True)) == 5
    with pytest.raises(BadInput, match="does not fit tiny-llama"):
        load_edits(path, tiny_lm("llama"), any_model=True)
    assert len(load_edits(path)) == 5


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edits.safetensors"
    with pytest.raises(BadInput, match="no file"):
        load_edits(path)
    path.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="is not a file of edits"):
        load_edits(path)
