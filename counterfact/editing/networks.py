"""Trained hypernetworks: what one is, which there are, how one edits, and the folder one is kept in.

A hypernetwork turns the gradient of the edit loss, as factors, into a change of low rank. Mitchell et al. Fast Model
Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from counterfact.contracts.editors import Edited, Editor, Failure, Group, Resources, editor
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, write_atomic, write_json
from counterfact.core.records import Request
from counterfact.core.registry import Registry
from counterfact.core.settings import Choices, Resolved, Settings, resolve_settings, settings_beside
from counterfact.editing.requests import Encoded, edit_each, encode
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.edits.gradient_factors import Factors, LabelledRows, gradient_factors, run_below
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan

FORMAT = 1
WEIGHTS, INFO = "network.safetensors", "editor.json"

Task = Literal["text", "counterfact", "zsre", "neighbors"]
TASKS: Mapping[Task, tuple[str, str, str]] = {
    "text": ("", "", "stock: completions of plain text"),
    "counterfact": ("_cf", "-CF", "CounterFact records"),
    "zsre": ("_zsre", "-zsRE", "zsRE questions"),
    "neighbors": (
        "_cf_neighbors",
        "-CF, neighbors held",
        "CounterFact records, held still on their neighborhood (ours, not the paper's)",
    ),
}
"""What a network can be trained for: how its editor's name and title end, and what it is trained on."""


class NetworkSettings(Settings):
    """What decides a training besides model and data; defaults are the published ones for GPT-2 XL.

    A step is one batch of edits, each with one locality text; the weights move once every `accumulate` steps.
    """

    blocks: int = Field(3, ge=1)
    """How many of the last blocks are edited, both MLP projections of each."""
    order: Literal["down_up", "up_down"] = "down_up"
    """Order of a block's two projections, which is that of the learned edit rates."""
    learning_rate: float = Field(gt=0)
    """Adam's step size for the network."""
    edit_weight: float = Field(0.1, ge=0)
    """Weight of the edit loss."""
    locality_weight: float = Field(1.0, ge=0)
    """Weight of the divergence on the locality texts."""
    batch: int = Field(1, ge=1)
    """Edits in a step."""
    accumulate: int = Field(10, ge=1)
    """Steps whose gradients are averaged."""
    clip: float = Field(100.0, gt=0)
    """Largest norm of the gradient."""
    steps: int = Field(1_000_000, ge=1)
    """The most steps."""
    validate_every: int = Field(5_000, ge=1)
    """Steps between validations; one stands before the first step."""
    validation_edits: int = Field(500, ge=1)
    """The most edits in a validation."""
    patience: int = Field(20_000, ge=1)
    """Training ends when the validation loss has not fallen for so many steps."""
    fewest_text_labels: int = Field(10, ge=1)
    """Fewest tokens at the end of a plain text that are its labels; the number is drawn evenly."""
    most_text_labels: int = Field(10, ge=1)
    """Most tokens at the end of a plain text that are its labels."""
    record_labels: int = Field(1, ge=0)
    """How many of the last tokens of a record's target are its labels; 0: all of them."""
    text_tokens: int = Field(64, ge=4)
    """Tokens of a plain text that is edited."""
    locality_tokens: int = Field(200, ge=2)
    """The most tokens of a locality text."""


class Hypernetwork(nn.Module, ABC):
    """Turns factors of the gradient into factors of the change.

    Attributes:
        edited: names of the edited projections.
        start: the first block that holds one.
    """

    def __init__(self, lm: LM, settings: NetworkSettings) -> None:
        super().__init__()
        self.start = max(0, lm.n_layers - settings.blocks)
        layers = range(self.start, lm.n_layers)
        pairs = [(lm.layout.fc_out(layer), lm.layout.fc_in(layer)) for layer in layers]
        self.edited = tuple(name for pair in pairs for name in (pair if settings.order == "down_up" else pair[::-1]))

    @abstractmethod
    def forward(self, factors: Factors, rows: LabelledRows) -> list[tuple[Tensor, Tensor]]:
        """Return of each edited projection L (rows, rank, d_in) and R (rows, rank, d_out), rows of zeros as padding."""

    def observe(self, factors: Factors) -> None:
        """Take note of factors seen in training; a network that keeps no statistics does nothing."""

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters as Adam takes them, each group with its learning rate."""


@dataclass(frozen=True)
class NetworkSpec:
    """A kind of hypernetwork as the registry knows it."""

    name: str
    settings: type[NetworkSettings]
    build: Callable[[LM, Any], Hypernetwork]
    paper: str

    def resolve(self, model_name: str, n_layers: int, overrides: Choices = ()) -> Resolved[NetworkSettings]:
        """Combine defaults, the values kept for a model in `settings/<name>_training/`, and a run's choices.

        Raises:
            BadInput: an unknown key or a wrong type.
        """
        folder = settings_beside(self.build, f"{self.name}_training")
        return resolve_settings(self.settings, folder, model_name, n_layers, overrides)


NETWORKS: Registry[NetworkSpec] = Registry("hypernetwork", "editors")


class NetworkEditorSettings(Settings):
    """What is left to choose once a network is trained."""

    scale: float = 1.0
    """Factor on the change; 1 is what the network was trained for."""


def hypernetwork(
    name: str, settings: type[NetworkSettings], *, title: str = "", paper: str, summary: str
) -> Callable[[Callable[[LM, Any], Hypernetwork]], Callable[[LM, Any], Hypernetwork]]:
    """Register the function or class below as the hypernetwork `name`, and an editor for each task it can learn."""

    def register(build: Callable[[LM, Any], Hypernetwork]) -> Callable[[LM, Any], Hypernetwork]:
        spec, folder = NETWORKS.add(name, NetworkSpec(name, settings, build, paper)), settings_beside(build, name)
        for task, (suffix, ending, what) in TASKS.items():
            note = f"{summary}; trained on {what}"
            enter = editor(
                name + suffix,
                NetworkEditorSettings,
                paper=paper,
                summary=note,
                settings_folder=folder,
                trained_for=task,
                title=f"{title or name}{ending}",
            )
            enter(partial(_prepare, spec, task))
        return build

    return register


@dataclass(frozen=True)
class Trained:
    """A trained network and what its folder says of it."""

    network: Hypernetwork
    info: Mapping[str, Any]

    @cached_property
    def requests(self) -> frozenset[tuple[str, str]]:
        """Prompt template and subject of everything it was trained on."""
        return frozenset((prompt, subject) for prompt, subject in self.info["trained_on"]["requests"])


def save_network(folder: Path, network: Hypernetwork, info: Mapping[str, Any]) -> None:
    """Write a trained network: its weights, then `editor.json`, which makes the folder complete.

    Args:
        folder: made where it is missing.
        network: whose tensors are kept.
        info: JSON values: `editor`, `task`, `settings`, `model` (of `LM.identity`), `trained_on`, and more.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights = save(tensors)
    write_atomic(folder / WEIGHTS, weights)
    digest = sha256(weights).hexdigest()
    write_json(folder / INFO, {"format": FORMAT, **info, "edited": network.edited, "weights_sha256": digest})


def read_info(folder: Path) -> dict[str, Any]:
    """Return what `editor.json` says.

    Raises:
        BadInput: there is no trained network in the folder, or one of another format.
    """
    if not (folder / INFO).is_file():
        raise BadInput(
            f"no trained network in {folder}: train one (`counterfact train -h`), or say where it is (--network)"
        )
    info: dict[str, Any] = read_json(folder / INFO)
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise BadInput(f"{folder / INFO}: expected format {FORMAT} of a trained network")
    return info


def load_network(folder: Path, lm: LM, name: str, task: Task) -> Trained:
    """Read a trained network for a model.

    Args:
        folder: of `save_network`.
        lm: the model it is to edit.
        name: of the hypernetwork expected.
        task: it must have been trained for.

    Raises:
        BadInput: it is another network, was trained for another task or model, or is damaged; the message says which.
    """
    info = read_info(folder)
    for key, wanted in (("editor", name), ("task", task)):
        if info.get(key) != wanted:
            raise BadInput(f"{folder}: expected a network of {key} {wanted!r}, got {info.get(key)!r}")
    trained_for = info["model"]
    if trained_for["weights_hash"] != lm.weights_hash:
        raise BadInput(
            f"{folder} was trained for {trained_for['name']} with weights {trained_for['weights_hash'][:8]}, not for "
            f"{lm.name} with weights {lm.weights_hash[:8]}; train it again for this model"
        )
    spec = NETWORKS.get(name)
    network = spec.build(lm, spec.settings.check(info["settings"], str(folder / INFO)))
    try:
        data = (folder / WEIGHTS).read_bytes()
        if sha256(data).hexdigest() != info["weights_sha256"]:
            raise BadInput(f"{folder / WEIGHTS} is damaged: its sha256 is not the one in {INFO}; train it again")
        network.load_state_dict(load(data))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{folder / WEIGHTS} does not fit {lm.name}: {error}") from error
    return Trained(network.to(lm.device).requires_grad_(False).eval(), info)


class _Change(NamedTuple):
    """What a network asks for one request."""

    loss: float
    finite: bool
    parts: list[tuple[Tensor, Tensor]]
    """For each projection, (tokens that change anything, d_in) and (those tokens, d_out)."""


@dataclass(frozen=True)
class NetworkEditor:
    """A prepared editor."""

    lm: LM
    trained: Trained
    scale: float
    plan: Plan

    @property
    def provenance(self) -> dict[str, Any]:
        """The network's hash, task and length of training."""
        info = self.trained.info
        return {"network": {key: info[key] for key in ("task", "step", "weights_sha256", "data")}}

    def seen_in_training(self, requests: Sequence[Request]) -> list[int]:
        """Return the ids of requests whose prompt and subject the network was trained on."""
        return [request.id for request in requests if (request.prompt, request.subject) in self.trained.requests]

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random."""
        return edit_each(
            groups,
            lambda request: encode(self.lm, request, ["{}"], "last", kl_row=False),
            self._run,
            self._edit,
            size=lambda item: item.length + 1,
            plan=self.plan,
        )

    @torch.no_grad()
    def _run(self, items: list[Encoded]) -> list[_Change]:
        sequences = [(*item.rows[0].ids, item.target[-1]) for item in items]
        rows = LabelledRows.of(sequences, [len(item.target) for item in items], self.lm.device)
        network = self.trained.network
        below = run_below(self.lm, rows.ids, network.start)
        factors = gradient_factors(self.lm, below, network.start, rows, network.edited)
        changes = [(left, self.scale * right) for left, right in network(factors, rows)]
        # Asked of all rows and projections at once: three waits for the device, however many there are.
        used = torch.stack([(left != 0).any(2) & (right != 0).any(2) for left, right in changes], 1).tolist()
        finite = torch.stack([part.isfinite().flatten(1).all(1) for pair in changes for part in pair]).all(0).tolist()
        made = []
        for row, (loss, is_finite) in enumerate(zip(factors.losses.tolist(), finite, strict=True)):
            tokens = [[place for place, is_used in enumerate(those) if is_used] for those in used[row]]
            parts = [
                (left[row, those], right[row, those]) for (left, right), those in zip(changes, tokens, strict=True)
            ]
            made.append(_Change(loss, is_finite, parts))
        return made

    def _edit(self, request: Request, change: _Change) -> Edit | Failure:
        if not math.isfinite(change.loss) or not change.finite:
            return Failure(request.id, f"the loss is {change.loss}, or the change it asks for is not finite")
        named = zip(self.trained.network.edited, change.parts, strict=True)
        return Edit(tuple(LowRank(name, *parts) for name, parts in named), (request.id,), {"loss_before": change.loss})


def _prepare(spec: NetworkSpec, task: Task, lm: LM, settings: NetworkEditorSettings, resources: Resources) -> Editor:
    folder = resources.network_folder(lm, spec.name + TASKS[task][0])
    return NetworkEditor(lm, load_network(folder, lm, spec.name, task), settings.scale, resources.plan_for(lm))
