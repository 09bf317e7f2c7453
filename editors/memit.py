r"""MEMIT and EMMET: many facts in one closed form, spread over several layers.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023. https://arxiv.org/abs/2210.07229
Gupta, Sajnani, Anumanchipalli. A Unified Framework for Model Editing. 2024. https://arxiv.org/abs/2403.14236

With K the keys of n requests as columns, R what is to be added to their values, and C the second moment of keys, MEMIT
minimises $\lambda\,\mathrm{tr}(\Delta C \Delta^\top) + \|\Delta K - R\|^2$:

$$\Delta = R K^\top (\lambda C + K K^\top)^{-1} = R\,(\lambda I + K^\top C^{-1} K)^{-1} K^\top C^{-1}.$$

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

from counterfact.contracts.editors import Editor, Engine, Resources, editor
from counterfact.core.settings import Settings
from counterfact.editing.contexts import word_templates
from counterfact.editing.mass_edits import MassEditor, Writer, check_layers
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.loading import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.moments.second_moment import SecondMoment

MEMIT = "https://arxiv.org/abs/2210.07229"
EMMET = "https://arxiv.org/abs/2403.14236"
ENGINES: tuple[Engine, ...] = ("batched", "plain")
WORDS = ("The", "Therefore", "Because", "I", "You")
"""Words that context texts begin with."""
CONTEXT_LENGTH = 10
"""Tokens of a context text."""
WEIGHT_BY_WIDTH = 0.92
"""λ as a share of d_in, where nothing is published for a model: that of GPT-J, 15,000 at a width of 16,384.

A fact alone is written by the share $s / (\\lambda + s)$ with $s = k^\top C^{-1} k$, which is d_in on average."""


class MassSearchSettings(Settings):
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


class MemitSettings(MassSearchSettings):
    """Settings of MEMIT."""

    moment_weight: float | None = Field(None, gt=0)
    """λ, how much the keys of ordinary text count against those of the requests; `None`: 0.92 d_in."""


class EmmetSettings(MassSearchSettings):
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


def ridge_factor(keys: Tensor, moment: SecondMoment, weight: float) -> Tensor:
    r"""Return $(\lambda I + K^\top C^{-1} K)^{-1} K^\top C^{-1}$, (n, d_in), float64.

    Args:
        keys: K^T, (n, d_in), float64.
        moment: C.
        weight: λ; with 0 the keys must be independent.
    """
    solved = moment.solve(keys).to(keys)
    inner = keys @ solved.T
    inner = (inner + inner.T) / 2
    inner.diagonal().add_(weight)
    found: Tensor = torch.cholesky_solve(solved, torch.linalg.cholesky(inner))
    return found


def _prepare(
    lm: LM, settings: MassSearchSettings, resources: Resources, write: Writer, facts: dict[str, Any]
) -> Editor:
    templates = word_templates(lm, resources, WORDS, CONTEXT_LENGTH)
    return MassEditor(lm, settings, templates, write, facts, resources.plan_for(lm), resources.engine)


def _moments(lm: LM, layers: list[int], resources: Resources) -> tuple[dict[int, SecondMoment], dict[str, Any]]:
    check_layers(layers, lm)
    moments = {layer: resources.second_moment(lm, layer) for layer in layers}
    return moments, {"second_moments": {str(layer): moment.provenance for layer, moment in moments.items()}}


def takes_second_moments(_settings: MassSearchSettings) -> bool:
    """They always do."""
    return True


@editor(
    "memit",
    MemitSettings,
    paper=MEMIT,
    summary="many facts at once: ridge regression spread over several MLPs",
    most_at_once=None,
    engines=ENGINES,
    second_moments=takes_second_moments,
)
def prepare(lm: LM, settings: MemitSettings, resources: Resources) -> Editor:
    """MEMIT, as the authors' code has it."""
    moments, facts = _moments(lm, settings.layers, resources)
    width = weight_shape(lm.model, lm.layout.fc_out(settings.layers[0]))[0]
    weight = WEIGHT_BY_WIDTH * width if settings.moment_weight is None else settings.moment_weight

    def write(layer: int, keys: Tensor, _residual: Tensor) -> Tensor:
        return ridge_factor(keys, moments[layer], weight)

    return _prepare(lm, settings, resources, write, {**facts, "moment_weight": weight})


@editor(
    "emmet",
    EmmetSettings,
    paper=EMMET,
    summary="many facts at once by equality, softened where there are several: MEMIT with another weight",
    most_at_once=None,
    engines=ENGINES,
    second_moments=takes_second_moments,
)
def prepare_emmet(lm: LM, settings: EmmetSettings, resources: Resources) -> Editor:
    """EMMET: exact for one request, and not for two."""
    moments, facts = _moments(lm, settings.layers, resources)
    share = settings.identity_weight / settings.moment_weight
    if share:
        moments = {layer: _with_identity(moment, share) for layer, moment in moments.items()}

    def write(layer: int, keys: Tensor, _residual: Tensor) -> Tensor:
        softened = settings.equality_weight * settings.moment_weight if len(keys) > 1 else 0.0
        return ridge_factor(keys, moments[layer], softened)

    return _prepare(lm, settings, resources, write, facts)


def _with_identity(moment: SecondMoment, share: float) -> SecondMoment:
    """C + share · I: what S is, but for the factor w."""
    eye = torch.eye(len(moment.matrix), dtype=moment.matrix.dtype, device=moment.matrix.device)
    return replace(moment, matrix=moment.matrix + share * eye)
