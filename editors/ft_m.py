"""FT-M: fine-tuning of one MLP weight on all facts of a group together.

Zhang et al. A Comprehensive Study of Knowledge Editing for Large Language Models. 2024.
https://arxiv.org/abs/2401.01286

The loss is the cross-entropy of the new object's tokens, each given the true ones before it, mean over a request's
tokens, then over the requests of a step. For one request it is FT at another layer. We follow EasyEdit's `FT` with
`objective_optimization: target_new`, which its files must be switched to, as it masks prompts and padding where padding
stands on the left. It moves the positions of models that learn these by the padding, and its files for GPT-2 and GPT-J
train the bias, too: ours have neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources, check_layer, editor
from counterfact.editing.requests import Encoded
from counterfact.editing.teacher_forcing import GroupTraining
from counterfact.lm.edits.edit import Delta, Dense
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

from . import finetune
from .finetune import Batch, FinetuneSettings

PAPER = "https://arxiv.org/abs/2401.01286"


class GroupFinetuneSettings(FinetuneSettings):
    """Settings of FT-M; `steps` are rounds over the group."""

    batch_size: int = Field(1, ge=1)
    """Requests of one step."""
    bound: float | None = Field(None, gt=0)
    """ε: no weight leaves [original - ε, original + ε]; `None`: any may."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """The layer at two thirds of the depth: published are 21 of 28 and 21 of 32, and for GPT-2 XL 0."""
        return {"layer": 2 * n_layers // 3}


class GroupFinetune:
    """The change of one weight."""

    def __init__(self, lm: LM, settings: GroupFinetuneSettings) -> None:
        self.lm = lm
        self.settings = settings
        self.module = lm.layout.fc_out(settings.layer)
        shape = weight_shape(lm.model, self.module)
        self.change = torch.zeros(shape, dtype=lm.working_dtype, device=lm.device, requires_grad=True)
        """(d_in, width)."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The change."""
        return [self.change]

    def lay_out(self, items: Sequence[Encoded]) -> Batch:
        """Run the layers up to the trained one, once."""
        return finetune.lay_out(self.lm, items, self.settings.layer)

    def losses(self, batch: Batch) -> Tensor:
        """Return the loss of each request, (records,), in nats a token."""
        return finetune.losses(self.lm, batch, self.change, self.settings.layer)

    @torch.no_grad()
    def after_step(self) -> None:
        """Stay in the box, if there is one."""
        if self.settings.bound is not None:
            self.change.clamp_(-self.settings.bound, self.settings.bound)

    def deltas(self) -> tuple[Delta, ...]:
        """Return the change, which has full rank."""
        return (Dense(self.module, self.change.detach()),)


@editor(
    "ft_m",
    GroupFinetuneSettings,
    title="FT-M",
    paper=PAPER,
    summary="fine-tunes one MLP weight on many facts by Adam",
    most_at_once=None,
)
def prepare(lm: LM, settings: GroupFinetuneSettings, resources: Resources) -> Editor:
    """FT-M; nothing here is random."""
    check_layer(settings.layer, lm)

    def start(_seed: int, _ids: Sequence[int]) -> GroupFinetune:
        return GroupFinetune(lm, settings)

    return GroupTraining(lm, settings, resources.plan_for(lm), start, resources.progress)
