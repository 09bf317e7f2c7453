r"""PMET: MEMIT with values searched for inside a block, at the outputs of its attention and of its MLP.

Li, Li, Song, Yang, Ma, Yu. PMET: Precise Model Editing in a Transformer. AAAI 2024. https://arxiv.org/abs/2308.08742

Two vectors $\delta_a, \delta_m$ are added to the last projections of attention and MLP of the last edited layer, at the
subject, and found together:

$$\min\; f \cdot \mathrm{NLL} + \lambda\, D_{KL} + \gamma \left(\frac{\|\delta_a\|}{\|a_0\|^2}
  + \frac{\|\delta_m\|}{\|m_0\|^2}\right)$$

with f = 1, and 0.1 after a pass in which every token of the new object was the likeliest (`editing.plain`; for many
records at once, `editing.value_search`). Only $m_0 + \delta_m$ is written, to the MLPs, by MEMIT's closed form with the
residual

$$R = \frac{Z - M}{\sqrt{m - i}},$$

M what the last edited layer's MLP gives now: more than an equal share of what is missing, by the paper's design.
"""

import math

from pydantic import Field

from counterfact.contracts.editors import Editor, Engine, Resources
from counterfact.editing import plain
from counterfact.editing.goals import Find, Goal
from counterfact.editing.mass_edits import MassEditor, mass_editor
from counterfact.editing.value_search import find_projections
from counterfact.editing.values import Projections
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import Layout

from .memit import MemitSettings, memit_writer

PAPER = "https://arxiv.org/abs/2308.08742"


class PmetSettings(MemitSettings):
    """Settings of PMET; the defaults are those published for GPT-J."""

    steps: int = Field(30, ge=1)
    """The most forward passes of the search for z; the last one makes no update."""
    learning_rate: float = Field(0.2, gt=0)
    """Adam's step size on both δ."""
    kl_factor: float = Field(1.0, ge=0)
    """Factor of the KL term, read at the subject of `{} is a`."""


@mass_editor(
    "pmet",
    PmetSettings,
    title="PMET",
    paper=PAPER,
    summary="MEMIT with values found at the outputs of one attention and one MLP together",
)
def prepare(lm: LM, settings: PmetSettings, resources: Resources) -> Editor:
    """PMET, MLPs only, as the authors' settings have it."""
    searches: dict[Engine, Find] = {"batched": find_projections, "plain": plain.find_projections}
    goal = Goal.kept(resources, Projections, searches, Layout.fc_out, math.sqrt)
    return MassEditor.of(lm, settings, resources, *memit_writer(lm, settings, resources), goal=goal)
