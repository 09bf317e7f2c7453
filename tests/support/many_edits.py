"""What the tests of editors of many facts share: numbers of the reference implementations, and ways to make an edit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterfact.contracts.editors import EDITORS, Accumulating, Edited, Resources
from counterfact.core.records import Request
from counterfact.editing.mass_edits import MassEditor
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.moments.second_moment import SecondMoment
from tests.support.editing import resources

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
    "nullspace_threshold": "threshold",
    "L2": "ridge",
}


class ManyEdits:
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

    def requests(self, run: Any) -> list[Request]:
        """The requests of a run, in order."""
        by_id = {one["case_id"]: one for one in self.given["requests"]}
        mine = [by_id[case] for case in run["case_ids"]]
        return [Request(one["case_id"], one["prompt"], one["subject"], one["target_new"]) for one in mine]

    def arrays(self, file: str, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays of a file whose names start with a prefix, by the rest of their names."""
        with np.load(self.folder / f"{file}.npz") as stored:
            return {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}

    def run(
        self, name: str, prefix: str, file: str | None = None
    ) -> tuple[MassEditor, list[Request], dict[str, NDArray[Any]], Any]:
        """The editor `name` with a run's settings, its requests, arrays and description."""
        file = file or name
        runs = self.read(f"{file}.json")
        run = next(one for one in runs["runs"] if one["prefix"] == prefix)
        values = {**self.given["hyperparameters"], **runs.get("hyperparameters", {}), **run.get("hyperparameters", {})}
        values["layers"] = run.get("layers", values["layers"])
        spec = EDITORS.get(name)
        mine = {ours: values[theirs] for theirs, ours in NAMES.items() if theirs in values}
        settings = spec.settings(**{key: value for key, value in mine.items() if key in spec.settings.model_fields})
        templates = tuple(template for group in self.given["context_templates"] for template in group)
        given = Resources(second_moments=self.moments, context_templates=templates)
        editor = spec.prepare(self.lm, settings, given)
        assert isinstance(editor, MassEditor)
        return editor, self.requests(run), self.arrays(file, prefix), {**run, "layers": values["layers"]}


def distance(found: Tensor, expected: NDArray[Any]) -> float:
    wanted = torch.as_tensor(expected).double()
    return float((found.double() - wanted).norm() / wanted.norm())


def edit_of(done: list[Edited]) -> Edit:
    [one] = done
    assert one.edit is not None and not one.failures
    return one.edit


def check_run(
    edit: Edit, keys: dict[int, Tensor], arrays: dict[str, NDArray[Any]], layers: list[int], tolerance: float
) -> None:
    """Keys, residuals and updates are those of the reference."""
    assert list(keys) == layers
    for place, (layer, delta) in enumerate(zip(layers, edit.deltas, strict=True)):
        assert isinstance(delta, LowRank)
        assert distance(keys[layer].T, arrays[f"L{layer}_K"]) < 1e-5
        assert distance((len(layers) - place) * delta.right.T, arrays[f"L{layer}_targets"]) < 5e-5
        assert distance(delta.left.double().T @ delta.right.double(), arrays[f"L{layer}_upd"]) < tolerance


def check_closed_form(many: ManyEdits, name: str, file: str, prefixes: Sequence[str], tolerance: float) -> None:
    """The writer, given the reference's own keys of one step after another, gives its updates."""
    past: dict[int, Tensor] = {}
    for prefix in prefixes:
        editor, _, arrays, run = many.run(name, prefix, file)
        for place, layer in enumerate(run["layers"]):
            keys = torch.tensor(arrays[f"L{layer}_K"]).double().T
            residual = torch.tensor(arrays[f"L{layer}_targets"]).double().T / (len(run["layers"]) - place)
            before = past.get(layer, keys[:0])
            assert distance(editor.write(layer, keys, before).T @ residual, arrays[f"L{layer}_upd"]) < tolerance
            past[layer] = torch.cat([before, keys])


def check_steps(many: ManyEdits, name: str, prefix: str, tolerance: float) -> None:
    """Three batches, one after another, are the reference's; the state is its memory."""
    edits: list[Edit] = []
    state = None
    for step in range(3):
        editor, requests, arrays, run = many.run(name, f"{prefix}{step}_", "alphaedit")
        assert isinstance(editor, Accumulating)
        with merged(many.lm, edits):
            done = editor.step(requests, 0, state)
        edits.append(edit_of([done]))
        state = done.state
        assert state is not None
        new = {layer: state[f"keys.{layer}"][-len(requests) :] for layer in run["layers"]}
        check_run(edits[-1], new, arrays, run["layers"], tolerance)
        for layer, memory in zip(run["layers"], arrays["cache_c"], strict=True):
            keys = state[f"keys.{layer}"].double()
            assert distance(keys.T @ keys, memory) < 1e-4


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
