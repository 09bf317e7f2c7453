r"""The frame of editors that write many facts at once, spread over several layers.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023. https://arxiv.org/abs/2210.07229

With L the last edited layer, the residual stream $z_i$ that makes the model say each new object is searched for once,
on the model as it is. Then layers are written from the lowest up. At the i-th of m, keys K and the stream H after L are
taken on the model as it is edited below, the layer is given the share

$$R = \frac{Z - H}{m - i}, \quad i = 0, \dots, m - 1,$$

of what is still missing, and a *writer* turns K into the left factor of the change of its weight, whose right factor is
R. Methods differ by their writers; some also by their `Goal`, by what is kept of a change, or by what they remember.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Edited, Editor, Engine, Group, Progress, Resources, State, check_layer, editor
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.editing.contexts import word_templates
from counterfact.editing.goals import Goal, stream_goal
from counterfact.editing.key_states import KeyStates
from counterfact.editing.requests import Encoded, cut, encode, encode_group, failures_of
from counterfact.lm.edits.edit import Delta, Edit, LowRank
from counterfact.lm.forward.products import packed_products, wide_passes
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.hooks import Site
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.corpus_pass import sum_bytes
from counterfact.lm.moments.second_moment import SecondMoment
from counterfact.lm.planning.batch_plan import Plan, in_halves

WORDS = ("The", "Therefore", "Because", "I", "You")
"""Words that context texts begin with."""
CONTEXT_LENGTH = 10
"""Tokens of a context text."""
HELD = 2**32
"""Bytes of second moments and their factors that are held together; beyond, one layer's at a time is."""
KEYS = "keys."
"""Before the layer, in the names of a state's tensors."""

S = TypeVar("S", bound="MassSettings")
Writer = Callable[[int, Tensor, Tensor], Tensor]
"""A layer, keys K (n, d_in) and those written before (N, d_in), float64 -> left (n, d_in): the change is leftᵀ R."""


class MassSettings(Settings):
    """Settings of the search for z, and of where it is written; the defaults are those published for GPT-2 XL."""

    layers: list[int]
    """The layers whose MLPs are changed, ascending, from 0; z is wanted after the last of them."""
    position: SubjectRule = "subject_last"
    """The token at which keys are read and values are written."""
    steps: int = Field(20, ge=1)
    """The most forward passes of the search for z; the last one makes no update."""
    learning_rate: float = Field(0.5, gt=0)
    """Adam's step size on δ."""
    weight_decay: float = Field(0.5, ge=0)
    """Factor of ||δ|| / ||z_0||^2."""
    kl_factor: float = Field(0.0625, ge=0)
    """Factor of the KL term, read at the subject of `{} is a`."""
    clamp_norm_factor: float = Field(0.75, gt=0)
    """||δ|| is kept to this many times ||z_0||."""
    stop_loss: float = 0.05
    """The search for a request ends below this loss, in nats."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """Five layers up to three tenths of the depth: published are 3 to 8 of 28, 4 to 8 of 32 and 13 to 17 of 48."""
        last = max(0, round(0.3 * n_layers))
        return {"layers": list(range(max(0, last - 4), last + 1))}


class Sought(NamedTuple):
    """A request whose search came to an end."""

    rows: Encoded
    z: Tensor
    """(width,)."""
    loss: float
    """In nats, at z."""


@dataclass(frozen=True)
class MassEditor:
    """A prepared editor of groups of any size."""

    lm: LM
    settings: MassSettings
    templates: tuple[str, ...]
    """Context templates, the bare `{}` first."""
    write: Writer
    facts: dict[str, Any]
    """What else the edits rest on."""
    plan: Plan
    goal: Goal
    revise: Callable[[LowRank], Delta] = lambda delta: delta
    """What is kept of each change, once all layers are written."""
    progress: Progress | None = None
    """Told how many facts were searched for, of those that are edited in one call."""

    @classmethod
    def of(
        cls, lm: LM, settings: MassSettings, resources: Resources, write: Writer, facts: dict[str, Any], **more: Any
    ) -> Self:
        """Prepare the editor of a writer, with context templates and, unless `more` holds another, a goal as MEMIT's.

        Args:
            lm: the model, unedited.
            settings: where and how z is searched for.
            resources: what context templates, plan and engine are taken from.
            write: the writer.
            facts: what else the edits rest on.
            more: other fields.
        """
        templates = word_templates(lm, resources, WORDS, CONTEXT_LENGTH)
        given = {"goal": stream_goal(resources), "progress": resources.progress, **more}
        return cls(lm, settings, templates, write, facts, resources.plan_for(lm), **given)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the edits rest on, beside model and settings."""
        templates = list(self.templates)
        return {"context_templates": templates, "context_templates_hash": hash_json(templates), **self.facts}

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random, and one search serves all groups."""
        found = iter(self._search([request for group in groups for request in group]))
        return [self._make(group, list(islice(found, len(group))), {})[0] for group in groups]

    def edit(self, group: Group, past: Mapping[int, Tensor]) -> tuple[Edited, dict[int, Tensor]]:
        """Make one edit of all requests of a group that can be edited.

        Args:
            group: the requests.
            past: keys that were written before, (N, d_in) by layer; a layer that is not there has none.

        Returns:
            What became of the group, and the keys that were written, (n, d_in) by layer, float64.
        """
        return self._make(group, self._search(group), past)

    def _search(self, requests: Sequence[Request]) -> list[Sought | str]:
        """Search for z of all requests together; return for each what was found, or why nothing was."""
        encoded, failed = encode_group(
            requests, lambda request: encode(self.lm, request, self.templates, self.settings.position, kl_row=True)
        )
        found: dict[int, Sought | str] = {**failed}

        def run(batch: Sequence[int]) -> None:
            targets = self.goal.find(self.lm, [encoded[i] for i in batch], self.settings.layers[-1], self.settings)
            ends = zip(batch, targets.wanted, targets.loss.tolist(), targets.passes.tolist(), strict=True)
            for i, z, loss, passes in ends:
                if math.isfinite(loss) and bool(z.isfinite().all()):
                    found[i] = Sought(encoded[i], z.to(self.lm.device), loss)
                else:
                    found[i] = f"the loss became {loss} at forward pass {passes}"

        done = 0
        for batch in cut(encoded, lambda item: item.suffixes, self.plan.tokens_per_batch, padded=False):
            for i in in_halves("edit", batch, run, self.plan):
                found[i] = "out of memory with one request"
            done += len(batch)
            if self.progress is not None and len(batch) < len(encoded):
                self.progress("facts searched for", done, len(encoded))
        return [found[i] for i in range(len(requests))]

    def _make(
        self, group: Group, found: Sequence[Sought | str], past: Mapping[int, Tensor]
    ) -> tuple[Edited, dict[int, Tensor]]:
        """Write what was found for a group into one edit; return it as `edit` does."""
        sought = {i: one for i, one in enumerate(found) if isinstance(one, Sought)}
        failed = {i: one for i, one in enumerate(found) if isinstance(one, str)}
        written: tuple[LowRank, ...] = ()
        keys: dict[int, Tensor] = {}
        if sought:
            try:
                with packed_products(self.lm), wide_passes(self.lm):
                    rows = [one.rows for one in sought.values()]
                    states = KeyStates.of(self.lm, rows, self.plan)
                    wanted = torch.stack([one.z for one in sought.values()]).double()
                    written, keys = self._write(states, wanted, past)
            except ArithmeticError as error:
                failed.update(dict.fromkeys(sought, f"the group's closed form has no solution: {error}"))
        failures = failures_of(group, failed)
        if not written:
            return Edited(None, failures), {}
        edit = Edit(tuple(map(self.revise, written)), tuple(group[i].id for i in sought))
        loss = math.fsum(one.loss for one in sought.values()) / len(sought)
        return Edited(replace(edit, diagnostics={"update_frobenius": edit.frobenius(), "loss": loss}), failures), keys

    def _write(
        self, states: KeyStates, wanted: Tensor, past: Mapping[int, Tensor]
    ) -> tuple[tuple[LowRank, ...], dict[int, Tensor]]:
        """Write the layers from the lowest up; `wanted` is Z, (n, width), float64. Return the changes and the keys."""
        lm, layers = self.lm, self.settings.layers
        goal = Site(self.goal.module(lm.layout, layers[-1]))
        written: list[LowRank] = []
        keys: dict[int, Tensor] = {}
        for place, layer in enumerate(layers):
            keys[layer], present = states.look(lm, layer, layers[-1], goal, written[-1:])
            residual = (wanted - present) / self.goal.divisor(len(layers) - place)
            left = self.write(layer, keys[layer], past.get(layer, keys[layer][:0]).to(keys[layer]))
            if not bool(left.isfinite().all() and residual.isfinite().all()):
                raise ArithmeticError(f"the change of layer {layer} is not finite")
            dtype = lm.working_dtype
            written.append(LowRank(lm.layout.fc_out(layer), left.to(lm.device, dtype), residual.to(lm.device, dtype)))
        return tuple(written), keys


@dataclass(frozen=True)
class SequentialMassEditor(MassEditor):
    r"""A mass editor that remembers the keys of earlier groups, so that these are taken into account.

    A layer's key depends on no weight but those of lower layers, so that the keys by which a group is written are its
    keys after all of its layers are written, too; the authors' code computes them twice.
    """

    def step(self, group: Group, _seed: int, state: State | None, /) -> Edited:
        """Edit the model as it is edited so far; see `contracts.editors.Accumulating`.

        The state holds the keys of all groups, `keys.<layer>`, (N, d_in), in float32 (float64 for such a model).
        """
        past = {int(name.removeprefix(KEYS)): rows for name, rows in (state or {}).items()}
        done, keys = self.edit(group, past)
        for layer, new in keys.items():
            rows = new.to(self.lm.working_dtype)
            past[layer] = torch.cat([past[layer].to(rows), rows]) if layer in past else rows
        return replace(done, state={f"{KEYS}{layer}": rows for layer, rows in past.items()})


def check_layers(layers: Sequence[int], lm: LM) -> None:
    """Raise `BadInput` unless the model has these layers and they are in ascending order."""
    if not layers or list(layers) != sorted(set(layers)):
        raise BadInput(f"layers: expected one layer or more in ascending order, got {list(layers)}")
    for layer in layers:
        check_layer(layer, lm)


@dataclass(frozen=True)
class LayerMoments:
    """The second moments of several layers; those that are too large together are held one at a time."""

    lm: LM
    resources: Resources
    together: bool
    held: dict[int, SecondMoment] = field(default_factory=dict)

    def __getitem__(self, layer: int) -> SecondMoment:
        if layer not in self.held:
            if not self.together:
                self.held.clear()
            self.held[layer] = self.resources.second_moment(self.lm, layer)
        return self.held[layer]


def layer_moments(lm: LM, layers: Sequence[int], resources: Resources) -> tuple[LayerMoments, dict[str, Any]]:
    """Return the second moments of the keys of layers, and what a run records of them.

    Raises:
        BadInput: as `check_layers`, or there is no second moment.
    """
    check_layers(layers, lm)
    resources.make_second_moments(lm, layers)
    moments = LayerMoments(lm, resources, sum(sum_bytes(lm, layer) for layer in layers) <= HELD)
    return moments, {"second_moments": {str(layer): moments[layer].provenance for layer in layers}}


def mass_editor(
    name: str,
    settings: type[S],
    *,
    title: str = "",
    paper: str,
    summary: str,
    settings_folder: str | None = None,
    engines: tuple[Engine, ...] = ("batched", "plain"),
) -> Callable[[Callable[[LM, S, Resources], Editor]], Callable[[LM, S, Resources], Editor]]:
    """Register an editor of groups of any size that takes second moments; see `contracts.editors.editor`."""
    return editor(
        name,
        settings,
        paper=paper,
        summary=summary,
        settings_folder=settings_folder,
        most_at_once=None,
        engines=engines,
        second_moments=lambda _: True,
        title=title,
    )
