r"""LoRA: a change of low rank in the two projections of every MLP, trained on all facts of a group together.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022.
https://arxiv.org/abs/2106.09685

$$y \mathrel{+}= \frac{\alpha}{r}\,(x A^\top)\,B, \quad A \in \mathbb{R}^{r \times d_{in}},
  \quad B \in \mathbb{R}^{r \times d_{out}}$$

A starts uniform in $\pm 1 / \sqrt{d_{in}}$ from the seed, B at 0. The loss is FT-M's; every step is taken. This is a
baseline of our own: what tables of others call LoRA is often EasyEdit's, whose files choose AdaLoRA with dropout.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources, editor
from counterfact.core.seeds import derive_seed
from counterfact.core.settings import Settings
from counterfact.editing.requests import Encoded
from counterfact.editing.teacher_forcing import GroupTraining, Labels
from counterfact.lm.edits.apply import low_rank_pairs
from counterfact.lm.edits.edit import Delta, LowRank
from counterfact.lm.forward.blocks import embed, pad_right, run_blocks
from counterfact.lm.model.hooks import hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

PAPER = "https://arxiv.org/abs/2106.09685"


class LoraSettings(Settings):
    """Settings of LoRA."""

    rank: int = Field(8, ge=1)
    """r."""
    alpha: float = Field(32.0, gt=0)
    """α; the change is scaled by α / r."""
    steps: int = Field(50, ge=1)
    """Rounds over the group."""
    batch_size: int = Field(1, ge=1)
    """Requests of one step."""
    learning_rate: float = Field(5e-3, gt=0)
    """Adam's step size."""
    stop_loss: float = 0.0
    """Training ends below this loss, in nats a token; with 0 no step is left out."""


class LoraBatch(NamedTuple):
    """The requests of one step."""

    ids: Tensor
    """(records, tokens), padded on the right."""
    labels: Labels


class Lora:
    """A and B of every projection."""

    def __init__(self, lm: LM, settings: LoraSettings, seed: int) -> None:
        self.lm = lm
        self.scale = settings.alpha / settings.rank
        layers = range(lm.n_layers)
        self.modules = [name(layer) for layer in layers for name in (lm.layout.fc_in, lm.layout.fc_out)]
        generator = torch.Generator().manual_seed(seed)
        self.left, self.right = [], []
        for module in self.modules:
            d_in, d_out = weight_shape(lm.model, module)
            uniform = 2 * torch.rand(settings.rank, d_in, generator=generator, dtype=lm.working_dtype) - 1
            self.left.append((uniform / d_in**0.5).to(lm.device).requires_grad_())
            self.right.append(torch.zeros_like(self.left[-1][:, :1]).repeat(1, d_out).requires_grad_())

    @property
    def parameters(self) -> Sequence[Tensor]:
        """All A, then all B."""
        return [*self.left, *self.right]

    def lay_out(self, items: Sequence[Encoded]) -> LoraBatch:
        """Put the requests into one rectangle."""
        ids, _ = pad_right([item.rows[0].ids for item in items], self.lm.device)
        return LoraBatch(ids, Labels.of(self.lm, items))

    def losses(self, batch: LoraBatch) -> Tensor:
        """Return the loss of each request, (records,), in nats a token."""
        pairs = [
            pair
            for module, left, right in zip(self.modules, self.left, self.right, strict=True)
            for pair in low_rank_pairs(module, left, self.scale * right)
        ]
        with hooked(self.lm.model, *pairs):
            hidden = run_blocks(self.lm, embed(self.lm, batch.ids), 0, self.lm.n_layers)
        return batch.labels.nll(self.lm, hidden)

    def after_step(self) -> None:
        """Any values will do."""

    def deltas(self) -> tuple[Delta, ...]:
        """Return the changes of the weights."""
        parts = zip(self.modules, self.left, self.right, strict=True)
        return tuple(LowRank(module, left.detach(), self.scale * right.detach()) for module, left, right in parts)


@editor(
    "lora",
    LoraSettings,
    title="LoRA",
    paper=PAPER,
    summary="trains a change of low rank of all MLPs on many facts",
    most_at_once=None,
)
def prepare(lm: LM, settings: LoraSettings, resources: Resources) -> Editor:
    """LoRA, without dropout: random in its start alone."""

    def start(seed: int, ids: Sequence[int]) -> Lora:
        return Lora(lm, settings, derive_seed(seed, "lora", *ids))

    lm.layout.fc_out(0)  # refuses models of several experts
    return GroupTraining(lm, settings, resources.plan_for(lm), start, resources.progress)
