r"""RECT: MEMIT, of whose change only the entries that move a weight most, by its own size, are kept.

Gu, Xu, Ma, Lu, Ling, Chang, Peng. Model Editing Harms General Abilities of Large Language Models: Regularization to the
Rescue. EMNLP 2024. https://arxiv.org/abs/2401.04700

With W the weight before the edit and Δ MEMIT's change of it, an entry is kept where

$$\left|\frac{\Delta_{ij}}{W_{ij} + 10^{-8}}\right|$$

is among the largest, and is 0 elsewhere. We follow MEMIT_rect in the code of AlphaEdit: while the layers are written
the whole Δ is in place, and all of them are masked at the end. What is left has full rank.
"""

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources
from counterfact.editing.mass_edits import MassEditor, mass_editor
from counterfact.lm.edits.edit import Dense, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view

from .memit import MemitSettings, memit_writer

PAPER = "https://arxiv.org/abs/2401.04700"
TINY = 1e-8
"""Added to each weight, so that none is divided by 0."""


class RectSettings(MemitSettings):
    """Settings of RECT."""

    kept: float = Field(0.4, gt=0, le=1)
    """The share of a change's entries that is kept."""


def keep_largest(change: Tensor, weight: Tensor, kept: float) -> Tensor:
    """Return a change with all entries 0 but those that are largest by the weight they change.

    The smallest value kept is the k-th smallest of all, k = floor((1 - kept) N) of N entries, as in the authors' code:
    of 4,096 entries 1,640 are kept.

    Args:
        change: Δ, (d_in, d_out).
        weight: W, of the same shape.
        kept: the share that is kept.

    >>> keep_largest(torch.tensor([[4.0, 3.0, -2.0, 1.0]]), torch.tensor([[8.0, 1.0, 2.0, -9.0]]), 0.5)
    tensor([[ 4.,  3., -2.,  0.]])
    """
    ratio = (change / (weight + TINY)).abs()
    smallest = torch.kthvalue(ratio.flatten(), max(1, int((1 - kept) * ratio.numel()))).values
    return torch.where(ratio >= smallest, change, 0)


@mass_editor(
    "rect",
    RectSettings,
    title="RECT",
    paper=PAPER,
    summary="MEMIT, keeping the two fifths of each change that move their weights most",
    settings_folder="memit",
)
def prepare(lm: LM, settings: RectSettings, resources: Resources) -> Editor:
    """RECT; nothing is remembered from one group to the next."""

    def mask(delta: LowRank) -> Dense:
        weight = weight_view(lm.model, delta.module).detach().to(delta.left)
        return Dense(delta.module, keep_largest(delta.weight_change, weight, settings.kept))

    return MassEditor.of(lm, settings, resources, *memit_writer(lm, settings, resources), revise=mask)
