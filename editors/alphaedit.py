r"""AlphaEdit: many facts at once, written only into directions that keys of ordinary text hardly use.

Fang, Jiang, Wang, Ma, Jie, Wang, He, Chua. AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models.
ICLR 2025. https://arxiv.org/abs/2410.02355

P projects on the eigenvectors of the second moment C with small eigenvalues, its null space but for little. With K the
keys of a batch, $K_p$ those of earlier ones and R what is to be added to the values of K, the change
$\Delta = \Delta P$ that minimises $\|\Delta K - R\|^2 + \|\Delta K_p\|^2 + \lambda \|\Delta\|^2$ is (eq. 14, with the λ
that the code has in place of the paper's 1)

$$\Delta = R K^\top P\,(P (K_p K_p^\top + K K^\top) P + \lambda I)^{-1}.$$

With $B = P\,[K_p, K]$ that is $[0, R]\,(B^\top B + \lambda I)^{-1} B^\top$, MEMIT's closed form with P in the place of
$C^{-1}$: a system of as many equations as there are keys, solved as long as these are fewer than a key is wide.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources
from counterfact.core.errors import BadInput
from counterfact.editing.mass_edits import (
    MassSettings,
    SequentialMassEditor,
    layer_moments,
    mass_editor,
)
from counterfact.editing.ridge import ridge_factor
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.second_moment import SecondMoment

from .memit import ALPHAEDIT

log = logging.getLogger(__name__)

RIDGE_BY_TRACE = 0.1
"""λ as a share of what the null space holds of the trace of C, where nothing is published for a model.

A fact alone is written by the share $s / (\\lambda + s)$ with $s = \\|P k\\|^2$, and for keys of ordinary text s is the
trace of PC on average. Tuned on the embedded model."""
NEAR = 0.01
"""An eigenvalue is near the threshold within this share of it."""


class AlphaEditSettings(MassSettings):
    """Settings of AlphaEdit."""

    threshold: float | None = Field(None, gt=0)
    """Eigenvalues of C below it belong to the null space. It is absolute, as published, and so belongs to one model's
    scale of activations; `None`: the null space is chosen by `null_share`."""
    null_share: float = Field(0.2, gt=0, lt=1)
    """Without a threshold: the share of the trace of C that the null space may hold; tuned on the embedded model, on a
    hundred and a thousand facts at once and a thousand in twenty groups, among 0.02, 0.05, 0.1 and 0.2."""
    ridge: float | None = Field(None, gt=0)
    """λ, the factor of the change's own size; `None`: a tenth of what the null space holds of the trace of C."""


@dataclass(frozen=True, eq=False)
class NullSpace:
    """Directions that keys of ordinary text hardly use, of one layer."""

    others: Tensor
    """V, the eigenvectors of C that are not in the null space, (d_in, d_in - dimensions), float64."""
    dimensions: int
    threshold: float
    """The smallest eigenvalue that would not be in it."""
    trace: float
    """What it holds of the trace of C: the mean square of a key of ordinary text after projection."""
    share: float
    """The share of the trace of C that this is."""
    near: int
    """Eigenvalues within 1 % of the threshold, where small changes of C move directions in or out."""

    def project(self, keys: Tensor) -> Tensor:
        r"""Return $P k = k - V V^\top k$ for keys (n, d_in), float64."""
        rows = keys.to(self.others)  # a second moment may lie on another device
        return (rows - (rows @ self.others) @ self.others.T).to(keys)


def null_space(moment: SecondMoment, threshold: float | None, share: float) -> NullSpace:
    """Find the null space of a second moment by its eigenvalues.

    Args:
        moment: C.
        threshold: eigenvalues below it belong to the null space.
        share: of the trace, where there is no threshold: as many of the smallest eigenvalues as hold no more than it.

    Raises:
        BadInput: no eigenvalue is small enough.

    >>> moment = SecondMoment(torch.diag(torch.tensor([0.1, 4.9, 5.0]).double()), 8, 0, "", "")
    >>> found = null_space(moment, None, 0.05)
    >>> found.dimensions, round(found.share, 6), found.project(torch.ones(1, 3).double())
    (1, 0.01, tensor([[1., 0., 0.]], dtype=torch.float64))
    """
    found = moment.kept("eigenvectors", lambda: _eigenvectors(moment.matrix))
    values, vectors = found["values"], found["vectors"]
    if threshold is None:
        count = int((values.cumsum(0) <= share * values.sum()).sum())
        # Halfway to the first that is too much.
        threshold = float(values[max(0, count - 1) : count + 1].mean())
    count = int((values < threshold).sum())
    if count == 0:
        raise BadInput(
            f"layer {moment.layer}: the smallest eigenvalue of the second moment is {float(values[0]):.3g}, so that no "
            f"direction is left to write in; raise threshold, or without one null_share"
        )
    trace = float(values[:count].sum())
    near = int(((values / threshold - 1).abs() <= NEAR).sum())
    return NullSpace(vectors[:, count:], count, threshold, trace, trace / float(values.sum()), near)


def _eigenvectors(matrix: Tensor) -> dict[str, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return {"values": values, "vectors": vectors}


@mass_editor(
    "alphaedit",
    AlphaEditSettings,
    title="AlphaEdit",
    paper=ALPHAEDIT,
    summary="many facts, batch after batch, written only where ordinary text has no keys",
)
def prepare(lm: LM, settings: AlphaEditSettings, resources: Resources) -> Editor:
    """AlphaEdit, in exact projections where the authors' code has those of float32."""
    moments, rests_on = layer_moments(lm, settings.layers, resources)
    spaces = {layer: null_space(moments[layer], settings.threshold, settings.null_share) for layer in settings.layers}
    for layer, space in spaces.items():
        if space.near and settings.threshold is not None:
            log.warning(
                "layer %d: %d eigenvalue(s) of the second moment lie within 1 %% of the threshold %.4g; what is in the "
                "null space depends on little there",
                layer,
                space.near,
                space.threshold,
            )
    ridges = {layer: settings.ridge or RIDGE_BY_TRACE * space.trace for layer, space in spaces.items()}

    crowded = set[int]()

    def write(layer: int, keys: Tensor, past: Tensor) -> Tensor:
        space = spaces[layer]
        if (facts := len(past) + len(keys)) > space.dimensions and layer not in crowded:
            crowded.add(layer)
            log.warning(
                "layer %d: %d facts share %d directions to be written in, too few for all; a larger %s leaves more",
                layer,
                facts,
                space.dimensions,
                "null_share" if settings.threshold is None else "threshold",
            )
        return ridge_factor(space.project(keys), ridges[layer], past=space.project(past))

    found: dict[str, Any] = {
        str(layer): {
            "dimensions": space.dimensions,
            "threshold": space.threshold,
            "share_of_trace": space.share,
            "near_threshold": space.near,
            "ridge": ridges[layer],
        }
        for layer, space in spaces.items()
    }
    return SequentialMassEditor.of(lm, settings, resources, write, {**rests_on, "null_spaces": found})
