"""RECT and PRUNE: MEMIT's changes, cut down as the references do it."""

from pathlib import Path

import pytest
import torch

from counterfact.contracts.editors import Accumulating, Finishing
from counterfact.editing.mass_edits import MassEditor
from counterfact.editors.prune import Prune, low_rank_svd, restrain
from counterfact.editors.rect import keep_largest
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Dense, Edit, LowRank
from counterfact.lm.model.sites import weight_view
from tests.support.editing import REQUESTS, resources
from tests.support.many_edits import ManyEdits, change, distance, edit_of, made, mass_editor
from tests.support.models import tiny_lm

CHOICES = ("layers=[0,1]", "steps=4", "moment_weight=3")


@pytest.mark.parametrize("step", [0, 1])
def test_the_mask_is_the_references(many_edits: ManyEdits, step: int) -> None:
    lm, before = many_edits.lm, []
    for number in range(step + 1):
        editor, requests, arrays, run = many_edits.run("rect", f"rect{number}_", "alphaedit")
        with merged(lm, before):
            weights = [weight_view(lm.model, lm.layout.fc_out(layer)).clone() for layer in run["layers"]]
            edit = edit_of(editor([requests], 0))
        before.append(edit)
    for layer, delta, weight in zip(run["layers"], edit.deltas, weights, strict=True):
        applied, update = torch.tensor(arrays[f"L{layer}_applied"]), torch.tensor(arrays[f"L{layer}_upd"])
        masked = keep_largest(update, weight, 0.4)
        assert int((masked != 0).sum()) == int((applied != 0).sum()) == 1640
        assert distance(masked, arrays[f"L{layer}_applied"]) < 1e-6
        assert isinstance(delta, Dense)
        found = delta.weight_change
        assert int((found != 0).sum()) == 1640
        both = (found != 0) & (applied != 0)
        assert int(both.sum()) >= 1636, "entries at the rank may flip"
        assert distance(found[both], applied[both].numpy()) < 2e-4


def test_rect_masks_the_change_of_memit_and_keeps_all_where_it_is_told(tmp_path: Path) -> None:
    lm, several = tiny_lm("gpt2"), list(REQUESTS[:4])
    whole = made(lm, "memit", tmp_path, several, *CHOICES)
    torch.testing.assert_close(change(made(lm, "rect", tmp_path, several, *CHOICES, "kept=1.0")), change(whole))
    masked = change(made(lm, "rect", tmp_path, several, *CHOICES))
    kept = masked != 0
    assert torch.equal(masked[kept], change(whole)[kept])
    assert float(kept.double().mean()) == pytest.approx(0.4, abs=1e-3)


def stored(many_edits: ManyEdits, scale: float = 1.0) -> tuple[Prune, Prune, list[Edit]]:
    """Both editors, and the reference's three batches as edits, the last of them scaled up to `scale` times the sum."""
    editors = [many_edits.run(name, "prb0_", "alphaedit")[0] for name in ("prune", "prune_as_published")]
    module = many_edits.lm.layout.fc_out
    edits = []
    for step in range(3):
        arrays = many_edits.arrays("alphaedit", f"prb{step}_")
        changes = {layer: scale * torch.tensor(arrays[f"L{layer}_upd"]).double() for layer in range(3)}
        deltas = tuple(LowRank(module(layer), torch.eye(128).double(), each) for layer, each in changes.items())
        edits.append(Edit(deltas, (step,)))
    right, published = editors
    assert isinstance(right, Prune) and isinstance(published, Prune)
    return right, published, edits


def test_the_whole_change_is_restrained_as_the_references(many_edits: ManyEdits) -> None:
    right, published, edits = stored(many_edits)
    arrays = many_edits.arrays("alphaedit", "prune_")
    found, twice = right.finish(edits), published.finish(edits)
    assert found.request_ids == (0, 1, 2)
    facts = many_edits.read("alphaedit.json")["prune"]
    for layer, delta, faulty in zip(range(3), found.deltas, twice.deltas, strict=True):
        assert right.limits[delta.module] == pytest.approx(facts[layer]["max_singular_value_start"], rel=1e-6)
        assert isinstance(delta, LowRank) and isinstance(faulty, LowRank)
        assert distance(delta.weight_change, arrays[f"L{layer}_adjusted"]) < 2e-6
        assert distance(faulty.weight_change, arrays[f"L{layer}_code_result_minus_start"]) < 2e-6
    large, _, edits = stored(many_edits, 20.0)
    for layer, delta in zip(range(3), large.finish(edits).deltas, strict=True):
        assert isinstance(delta, LowRank)
        assert distance(delta.weight_change, many_edits.arrays("alphaedit", "prune20_")[f"L{layer}_adjusted"]) < 5e-6


def test_the_factors_singular_values_are_the_matrixs() -> None:
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 3, 40):
        left, right = (torch.randn(rank, size, generator=generator, dtype=torch.float64) for size in (12, 7))
        u, s, v = low_rank_svd(left, right)
        torch.testing.assert_close(u @ s.diag() @ v.T, left.T @ right)
        torch.testing.assert_close(s, torch.linalg.svdvals(left.T @ right)[: len(s)])


def test_prune_is_memit_until_it_is_finished(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    given, batches = resources(lm, tmp_path), [list(REQUESTS[:3]), list(REQUESTS[3:6])]
    memit, prune = (mass_editor(name, lm, given, *CHOICES) for name in ("memit", "prune"))
    assert isinstance(prune, Finishing) and not isinstance(memit, Finishing)
    edits = [edit_of([done]) for done in prune(batches, 0)]
    assert all(torch.equal(change(e), change(edit_of([m]))) for e, m in zip(edits, memit(batches, 0), strict=True))
    small = prune.finish(edits)
    torch.testing.assert_close(change(small), sum(map(change, edits)), rtol=0, atol=1e-12)
    large = [Edit(tuple(LowRank(d.module, 1e3 * d.left, d.right) for d in low_rank(e)), e.request_ids) for e in edits]
    for delta in prune.finish(large).deltas:
        limit = float(torch.linalg.matrix_norm(weight_view(lm.model, delta.module), 2))
        largest = 1e3 * torch.linalg.matrix_norm(sum_of(edits, delta.module), 2)
        assert isinstance(delta, LowRank)
        found = float(torch.linalg.matrix_norm(delta.weight_change, 2))
        assert found == pytest.approx(float(restrain(largest[None], limit)))
    summed = [Edit(tuple(Dense(d.module, d.weight_change) for d in low_rank(e)), e.request_ids) for e in large]
    for whole in (summed, [summed[0], large[1]]):
        restrained = prune.finish(whole)
        assert all(isinstance(delta, Dense) for delta in restrained.deltas)
        torch.testing.assert_close(change(restrained), change(prune.finish(large)), rtol=1e-9, atol=1e-9)
    assert prune.finish([]).deltas == ()


def low_rank(edit: Edit) -> list[LowRank]:
    return [delta for delta in edit.deltas if isinstance(delta, LowRank)]


def sum_of(edits: list[Edit], module: str) -> torch.Tensor:
    return torch.stack([d.weight_change for edit in edits for d in low_rank(edit) if d.module == module]).sum(0)


def test_editors_have_a_memory_and_a_last_step_where_their_method_has_them(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    for name in ("memit", "memit_seq", "alphaedit", "rect", "emmet", "pmet", "prune", "prune_as_published"):
        editor: MassEditor = mass_editor(name, lm, resources(lm, tmp_path), "layers=[0]")
        assert isinstance(editor, Accumulating) == (name in {"memit_seq", "alphaedit"})
        assert isinstance(editor, Finishing) == name.startswith("prune")
