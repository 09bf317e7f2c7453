"""MEMIT and EMMET: equal to the reference's numbers, independent of order and batches, and one weight apart."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterfact.contracts.editors import EDITORS, Edited, Resources
from counterfact.core.errors import BadInput
from counterfact.core.records import Request
from counterfact.editing.mass_edits import MassEditor
from counterfact.editors.memit import ridge_factor
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.loading import LM, load_lm
from counterfact.lm.moments.second_moment import SecondMoment
from tests.support.editing import REQUESTS, TEMPLATES, resources
from tests.support.models import tiny_lm

NAMES = {
    "v_num_grad_steps": "steps",
    "v_lr": "learning_rate",
    "v_weight_decay": "weight_decay",
    "clamp_norm_factor": "clamp_norm_factor",
    "kl_factor": "kl_factor",
    "layers": "layers",
    "mom2_update_weight": "moment_weight",
    "emmet_lambda": "equality_weight",
    "update_norm_lambda": "identity_weight",
}
MEMIT = ("b1_", "b4_", "b16_", "b4w1_", "b4w15000_", "b4c3_", "shared_", "b4l2_")
EMMET = ("e1_", "e4_", "e16_", "e4w_", "e4n_", "e4l_", "esh_")


class Golden:
    """The reference's runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "many_edits"
        self.lm = load_lm(folder / "model", device="cpu")
        self.given = self.read("requests.json")
        with np.load(self.folder / "second_moment_layers.npz") as arrays:
            self.moments = {
                layer: SecondMoment(torch.tensor(arrays[f"C_{layer}"]).double(), 23824, layer, "wikitext-2", "golden")
                for layer in (0, 1, 2)
            }

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def run(self, name: str, prefix: str) -> tuple[MassEditor, list[Request], dict[str, NDArray[Any]], Any]:
        """The editor with a run's settings, its requests, arrays and description."""
        runs = self.read(f"{name}.json")
        run = next(one for one in runs["runs"] if one["prefix"] == prefix)
        with np.load(self.folder / f"{name}.npz") as stored:
            arrays = {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}
        own = runs["default_hyperparameters"]
        defaults = {**self.given["hyperparameters"], **(own if isinstance(own, dict) else {})}
        values = {**defaults, **run["hyperparameters"], "layers": run["layers"]}
        spec = EDITORS.get(name)
        mine = {ours: values[theirs] for theirs, ours in NAMES.items() if theirs in values}
        settings = spec.settings(**{key: value for key, value in mine.items() if key in spec.settings.model_fields})
        templates = tuple(template for group in self.given["context_templates"] for template in group)
        given = Resources(second_moments=self.moments, context_templates=templates)
        editor = spec.prepare(self.lm, settings, given)
        assert isinstance(editor, MassEditor)
        by_id = {one["case_id"]: one for one in self.given["requests"]}
        requests = [
            Request(case, by_id[case]["prompt"], by_id[case]["subject"], by_id[case]["target_new"])
            for case in run["case_ids"]
        ]
        return editor, requests, arrays, run


@pytest.fixture(scope="module")
def golden(real_data: Path) -> Golden:
    return Golden(real_data / "golden")


def distance(found: Tensor, expected: NDArray[Any]) -> float:
    wanted = torch.as_tensor(expected).double()
    return float((found.double() - wanted).norm() / wanted.norm())


def edit_of(done: list[Edited]) -> Edit:
    [one] = done
    assert one.edit is not None and not one.failures
    return one.edit


@pytest.mark.parametrize(("name", "prefix"), [*(("memit", p) for p in MEMIT), *(("emmet", p) for p in EMMET)])
def test_edits_are_the_references(golden: Golden, name: str, prefix: str) -> None:
    editor, requests, arrays, run = golden.run(name, prefix)
    seen: list[tuple[int, Tensor, Tensor]] = []

    def write(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        seen.append((layer, keys, residual))
        return editor.write(layer, keys, residual)

    edit = edit_of(replace(editor, write=write)([requests], 0))
    assert [layer for layer, _, _ in seen] == run["layers"]
    for place, (layer, keys, residual) in enumerate(seen):
        assert distance(keys.T, arrays[f"L{layer}_K"]) < 1e-5
        assert distance((len(seen) - place) * residual.T, arrays[f"L{layer}_targets"]) < 5e-5
        delta = edit.deltas[place]
        assert isinstance(delta, LowRank)
        assert distance(delta.left.double().T @ delta.right.double(), arrays[f"L{layer}_upd"]) < 2e-4


@pytest.mark.parametrize("prefix", MEMIT)
def test_the_closed_form_of_the_references_keys_is_its_update(golden: Golden, prefix: str) -> None:
    editor, _, arrays, run = golden.run("memit", prefix)
    for place, layer in enumerate(run["layers"]):
        keys = torch.tensor(arrays[f"L{layer}_K"]).double().T
        residual = torch.tensor(arrays[f"L{layer}_targets"]).double().T / (len(run["layers"]) - place)
        left = ridge_factor(keys, golden.moments[layer], editor.facts["moment_weight"])
        assert distance(left.T @ residual, arrays[f"L{layer}_upd"]) < 1e-6


def mass_editor(name: str, lm: LM, given: Resources, *choices: str) -> MassEditor:
    spec = EDITORS.get(name)
    editor = spec.prepare(lm, spec.resolve(lm.name, lm.n_layers, choices).settings, given)
    assert isinstance(editor, MassEditor)
    return editor


def made(lm: LM, name: str, cache: Path, requests: list[Request], *choices: str, **given: Any) -> Edit:
    return edit_of(mass_editor(name, lm, resources(lm, cache, **given), *choices)([requests], 0))


def change(edit: Edit) -> Tensor:
    """All weight changes of an edit, one after the other."""
    return torch.cat([delta.weight_change.flatten() for delta in edit.deltas])


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
        keys: list[Tensor] = []

        def write(layer: int, found: Tensor, residual: Tensor, editor: Any = editor, keys: Any = keys) -> Tensor:
            keys.append(found)
            left: Tensor = editor.write(layer, found, residual)
            return left

        [delta] = edit_of(replace(editor, write=write)([list(REQUESTS[:1])], 0)).deltas
        assert isinstance(delta, LowRank)
        shares.append(float(keys[0] @ delta.left.T))
    assert shares[0] == pytest.approx(1, abs=1e-12)
    assert 0.05 < shares[1] < 0.95


def test_order_does_not_matter_and_batches_do(tmp_path: Path) -> None:
    lm, several = tiny_lm("gpt2"), list(REQUESTS[:6])
    edit = partial(made, lm, "memit", tmp_path)
    whole = change(edit(several, *CHOICES))
    assert (change(edit(several[::-1], *CHOICES)) - whole).norm() <= 1e-6 * whole.norm()
    first, second = (change(edit(part, *CHOICES)) for part in (several[:3], several[3:]))
    assert (first + second - whole).norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon"])
def test_the_plain_engine_makes_the_same_edit(family: str, tmp_path: Path) -> None:
    lm, several = tiny_lm(family), list(REQUESTS[:4])
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    first, second = (
        change(made(lm, "memit", tmp_path, several, *CHOICES, engine=engine)) for engine in ("batched", "plain")
    )
    assert (first - second).norm() <= 1e-4 * first.norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())


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


def test_a_request_that_cannot_be_edited_costs_its_group_only_itself(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    bad = Request(77, "{} is in", "Norway", "")
    [done, nothing] = mass_editor("memit", lm, resources(lm, tmp_path), *CHOICES)([[*REQUESTS[:2], bad], [bad]], 0)
    assert done.edit is not None and done.edit.request_ids == (0, 1)
    assert [failure.id for failure in done.failures] == [77]
    torch.testing.assert_close(change(done.edit), change(made(lm, "memit", tmp_path, list(REQUESTS[:2]), *CHOICES)))
    assert nothing.edit is None and [failure.id for failure in nothing.failures] == [77]


@pytest.mark.parametrize("layers", ["[]", "[1,0]", "[0,0]", "[7]"])
def test_layers_that_are_none_or_out_of_order_are_refused(layers: str, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match=r"layers?: "):
        mass_editor("memit", lm, resources(lm, tmp_path), f"layers={layers}")
