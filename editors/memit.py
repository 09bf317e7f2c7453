r"""MEMIT, MEMIT_seq and EMMET: many facts in one closed form, spread over several layers.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023. https://arxiv.org/abs/2210.07229
Fang, Jiang, Wang, Ma, Jie, Wang, He, Chua. AlphaEdit. ICLR 2025 (MEMIT_seq, in its code). https://arxiv.org/abs/2410.02355
Gupta, Sajnani, Anumanchipalli. A Unified Framework for Model Editing. 2024. https://arxiv.org/abs/2403.14236

With K the keys of n requests as columns, R what is to be added to their values, and C the second moment of keys, MEMIT
minimises $\lambda\,\mathrm{tr}(\Delta C \Delta^\top) + \|\Delta K - R\|^2$:

$$\Delta = R K^\top (\lambda C + K K^\top)^{-1} = R\,(\lambda I + K^\top C^{-1} K)^{-1} K^\top C^{-1}.$$

MEMIT_seq adds $\|\Delta K_p\|^2$ for the keys $K_p$ of earlier batches: the same closed form for the keys $[K_p, K]$
and residuals $[0, R]$.

EMMET asks for $\Delta K = R$ instead and softens it by $\lambda_e$ where n > 1. With $S = w C + u I$ that is
$\Delta = R\,(K^\top S^{-1} K + \lambda_e I)^{-1} K^\top S^{-1}$: MEMIT's form with $\lambda C = \lambda_e S$, and
ROME's equality for one request.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources
from counterfact.editing.mass_edits import (
    MassEditor,
    MassSettings,
    SequentialMassEditor,
    Writer,
    layer_moments,
    mass_editor,
)
from counterfact.editing.ridge import ridge_factor
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.moments.second_moment import SecondMoment

MEMIT = "https://arxiv.org/abs/2210.07229"
ALPHAEDIT = "https://arxiv.org/abs/2410.02355"
EMMET = "https://arxiv.org/abs/2403.14236"
WEIGHT_BY_WIDTH = 0.92
"""λ as a share of d_in, where nothing is published for a model: that of GPT-J, 15,000 at a width of 16,384.

A fact alone is written by the share $s / (\\lambda + s)$ with $s = k^\top C^{-1} k$, which is d_in on average."""


class MemitSettings(MassSettings):
    """Settings of MEMIT."""

    moment_weight: float | None = Field(None, gt=0)
    """λ, how much the keys of ordinary text count against those of the requests; `None`: 0.92 d_in."""


class EmmetSettings(MassSettings):
    """Settings of EMMET."""

    moment_weight: float = Field(1.0, gt=0)
    """w, the factor of C in S."""
    identity_weight: float = Field(0.0, ge=0)
    """u, the factor of the identity in S."""
    equality_weight: float = Field(0.1, ge=0)
    """λ_e, how far equality is softened where there are several requests."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """One layer, at three tenths of the depth."""
        return {"layers": [max(0, round(0.3 * n_layers))]}


def memit_writer(lm: LM, settings: MemitSettings, resources: Resources) -> tuple[Writer, dict[str, Any]]:
    """Return MEMIT's writer, which counts keys that were written before as it counts new ones, and its facts."""
    moments, facts = layer_moments(lm, settings.layers, resources)
    width = weight_shape(lm.model, lm.layout.fc_out(settings.layers[0]))[0]
    weight = WEIGHT_BY_WIDTH * width if settings.moment_weight is None else settings.moment_weight

    def write(layer: int, keys: Tensor, past: Tensor) -> Tensor:
        return ridge_factor(keys, weight, moments[layer], past)

    return write, {**facts, "moment_weight": weight}


@mass_editor(
    "memit",
    MemitSettings,
    title="MEMIT",
    paper=MEMIT,
    summary="many facts at once: ridge regression spread over several MLPs",
)
def prepare(lm: LM, settings: MemitSettings, resources: Resources) -> Editor:
    """MEMIT, as the authors' code has it; one batch knows nothing of those before it but their weights."""
    return MassEditor.of(lm, settings, resources, *memit_writer(lm, settings, resources))


@mass_editor(
    "memit_seq",
    MemitSettings,
    title="MEMIT-seq",
    paper=ALPHAEDIT,
    summary="MEMIT batch after batch, with the keys of earlier batches counted beside those of ordinary text",
    settings_folder="memit",
)
def prepare_sequential(lm: LM, settings: MemitSettings, resources: Resources) -> Editor:
    """MEMIT_seq: MEMIT with a memory."""
    return SequentialMassEditor.of(lm, settings, resources, *memit_writer(lm, settings, resources))


@mass_editor(
    "emmet",
    EmmetSettings,
    title="EMMET",
    paper=EMMET,
    summary="many facts at once by equality, softened where there are several: MEMIT with another weight",
)
def prepare_emmet(lm: LM, settings: EmmetSettings, resources: Resources) -> Editor:
    """EMMET: exact for one request, and not for two."""
    moments, facts = layer_moments(lm, settings.layers, resources)
    share = settings.identity_weight / settings.moment_weight

    def write(layer: int, keys: Tensor, _past: Tensor) -> Tensor:
        softened = settings.equality_weight * settings.moment_weight if len(keys) > 1 else 0.0
        return ridge_factor(keys, softened, _with_identity(moments[layer], share))

    return MassEditor.of(lm, settings, resources, write, facts)


def _with_identity(moment: SecondMoment, share: float) -> SecondMoment:
    """C + share · I: what S is, but for the factor w."""
    if not share:
        return moment
    eye = torch.eye(len(moment.matrix), dtype=moment.matrix.dtype, device=moment.matrix.device)
    return replace(moment, matrix=moment.matrix + share * eye, path=None)
