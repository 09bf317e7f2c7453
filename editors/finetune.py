"""Fine-tuning of one MLP weight, free (FT) or within a box around the original weights (FT+L).

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix E.1, and
Zhu et al. Modifying Memories in Transformer Models. 2020. https://arxiv.org/abs/2012.00363
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Edited, Editor, Engine, Failure, Group, Resources, check_layer, editor
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.editing.adam import Adam
from counterfact.editing.plain import TrainedWeight, train_alone
from counterfact.editing.requests import Encoded, edit_each, encode
from counterfact.editing.teacher_forcing import Labels
from counterfact.lm.edits.edit import Dense, Edit
from counterfact.lm.forward.blocks import embed, pad_right, run_blocks, stream_change
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.planning.memory import TRAINED

PAPER = "https://arxiv.org/abs/2202.05262"
ENGINES: tuple[Engine, ...] = ("batched", "plain")
COMPACT_AT = 0.8
"""Finished records are dropped from the batch when at most this fraction is still open."""


class FinetuneSettings(Settings):
    """Settings of FT; the defaults are those published for GPT-2 XL."""

    layer: int
    """The layer whose MLP's down projection is trained, from 0."""
    steps: int = Field(25, ge=1)
    """The most forward passes, each followed by an update."""
    learning_rate: float = Field(5e-4, gt=0)
    """Adam's step size."""
    stop_loss: float = 0.01
    """Training of a record ends, without an update, below this loss, in nats a token."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """Layer 1, as published for GPT-2 XL."""
        return {"layer": min(1, n_layers - 1)}


class BoxedFinetuneSettings(FinetuneSettings):
    """Settings of FT+L."""

    bound: float = Field(gt=0)
    """ε: no weight leaves [original - ε, original + ε]."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """Layer 0, and a bound that halves with every twelve layers, as published from GPT-2 medium to XL."""
        return {"layer": 0, "bound": 2e-3 * 2 ** ((24 - n_layers) / 12)}


@dataclass(frozen=True)
class Batch:
    """Records that are trained side by side; the first dimension is the record, one row each."""

    hidden: Tensor
    """Output of the trained layer's block under the original weight, (records, tokens, width)."""
    keys: Tensor
    """Input of the trained module, (records, tokens, d_in), in the dtype of the changes."""
    outputs: Tensor
    """Its output under the original weight, (records, tokens, width)."""
    labels: Labels
    """What is scored."""

    def keep(self, records: Tensor) -> "Batch":
        """Go on with these records only."""
        return Batch(self.hidden[records], self.keys[records], self.outputs[records], self.labels.keep(records))


@torch.no_grad()
def lay_out(lm: LM, items: Sequence[Encoded], layer: int) -> Batch:
    """Run the layers up to the trained one, once, and note what is scored."""
    ids, _ = pad_right([item.rows[0].ids for item in items], lm.device)
    tape, module = Tape(), lm.layout.fc_out(layer)
    key, output = Site(module, "in"), Site(module)
    with hooked(lm.model, tape.read(key), tape.read(output)):
        hidden = run_blocks(lm, embed(lm, ids), 0, layer + 1)
    return Batch(hidden, tape[key].to(lm.working_dtype), tape[output], Labels.of(lm, items))


def losses(lm: LM, batch: Batch, change: Tensor, layer: int) -> Tensor:
    """Mean -log p of the target's tokens, teacher-forced, under each record's own weight.

    A change D of the trained weight moves the module's output by k D and the residual stream by what follows from it,
    so layers below need not be run again.

    Args:
        lm: the model.
        batch: the records.
        change: (records, d_in, width), or (d_in, width) for all records.
        layer: the trained layer.

    Returns:
        (records,), nats a token.
    """
    moved = (batch.keys @ change).to(batch.hidden.dtype)
    hidden = batch.hidden + stream_change(lm, layer, batch.outputs, moved)
    hidden = run_blocks(lm, hidden, layer + 1, lm.n_layers)
    return batch.labels.nll(lm, hidden)


def train(lm: LM, batch: Batch, settings: FinetuneSettings, bound: float | None) -> list[TrainedWeight]:
    """Train one weight a record: forward, stop below the threshold, else an Adam step; then the box, if any."""
    count = len(batch.keys)
    change = batch.keys.new_zeros(count, batch.keys.shape[2], lm.width)
    adam = Adam(change, settings.learning_rate)
    results: dict[int, TrainedWeight] = {}
    history: list[list[float]] = [[] for _ in range(count)]
    alive = list(range(count))
    for step in range(settings.steps):
        with torch.enable_grad():
            variable = change.detach().requires_grad_()
            loss = losses(lm, batch, variable, settings.layer)
            whole = loss.sum()  # a record's gradient is its own: rows do not meet
        now = loss.tolist()  # the only wait for the device in a step
        for place, record in enumerate(alive):
            if record not in results:
                history[record].append(now[place])
                if not now[place] >= settings.stop_loss:  # NaN ends too
                    results[record] = TrainedWeight(change[place].clone(), tuple(history[record]))
        if len(results) == count:
            break
        (gradient,) = torch.autograd.grad(whole, variable)
        del variable, loss, whole
        adam.step_(change, gradient)
        if bound is not None:
            change.clamp_(-bound, bound)
        still = [place for place, record in enumerate(alive) if record not in results]
        if len(still) <= COMPACT_AT * len(alive) and step < settings.steps - 1:
            rest = torch.tensor(still, device=change.device)
            batch, change, alive = batch.keep(rest), change[rest], [alive[place] for place in still]
            adam.keep(rest)
    for place, record in enumerate(alive):
        if record not in results:
            results[record] = TrainedWeight(change[place].clone(), tuple(history[record]))
    return [results[record] for record in range(count)]


@dataclass(frozen=True)
class Finetune:
    """A prepared editor."""

    lm: LM
    settings: FinetuneSettings
    bound: float | None
    plan: Plan
    engine: Engine = "batched"

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random."""
        return edit_each(
            groups,
            lambda request: encode(self.lm, request, ["{}"], "last", kl_row=False),
            self._train,
            self._edit,
            size=lambda item: item.length,
            plan=self.plan,
            most=self._most(),
        )

    def _train(self, items: Sequence[Encoded]) -> list[TrainedWeight]:
        if self.engine == "plain":
            return [train_alone(self.lm, item, self.settings, self.bound) for item in items]
        return train(self.lm, lay_out(self.lm, items, self.settings.layer), self.settings, self.bound)

    def _most(self) -> int:
        d_in, d_out = weight_shape(self.lm.model, self._module)
        bytes_each = TRAINED * d_in * d_out * self.lm.working_dtype.itemsize
        return max(1, self.plan.weight_memory // bytes_each)

    @property
    def _module(self) -> str:
        return self.lm.layout.fc_out(self.settings.layer)

    def _edit(self, request: Request, trained: TrainedWeight) -> Edit | Failure:
        loss, size = trained.losses[-1], float(trained.change.norm())
        if not math.isfinite(loss) or not math.isfinite(size):
            return Failure(request.id, f"the loss became {loss} at forward pass {len(trained.losses)}")
        diagnostics = {
            "update_frobenius": size,
            "steps": float(len(trained.losses)),
            "loss": loss,
        }
        return Edit((Dense(self._module, trained.change),), (request.id,), diagnostics)


@editor("ft", FinetuneSettings, title="FT", paper=PAPER, summary="fine-tunes one MLP weight by Adam", engines=ENGINES)
def prepare(lm: LM, settings: FinetuneSettings, resources: Resources) -> Editor:
    """Fine-tuning without a constraint."""
    check_layer(settings.layer, lm)
    return Finetune(lm, settings, None, resources.plan_for(lm), resources.engine)


@editor(
    "ft_l",
    BoxedFinetuneSettings,
    title="FT+L",
    paper=PAPER,
    summary="FT within a box around the original weights",
    engines=ENGINES,
)
def prepare_boxed(lm: LM, settings: BoxedFinetuneSettings, resources: Resources) -> Editor:
    """Fine-tuning with an L-infinity constraint."""
    check_layer(settings.layer, lm)
    return Finetune(lm, settings, settings.bound, resources.plan_for(lm), resources.engine)
