r"""PRUNE: MEMIT batch after batch, and at the end the largest singular values of the whole change are cut down.

Ma, Wang, Xu, Ling, Gu. Perturbation-Restrained Sequential Model Editing. ICLR 2025. https://arxiv.org/abs/2405.16821

After the last batch, with $T = U\,\mathrm{diag}(s)\,V^\top$ the sum of all changes of a weight $W_0$ and σ the largest
singular value of $W_0$, every $s_i > \sigma$ becomes

$$s_i' = \ln s_i - \ln \sigma + \sigma,$$

and the weight becomes $W_0 + U\,\mathrm{diag}(s')\,V^\top$. The code of AlphaEdit, whose tables have rows of PRUNE,
adds that to the weight as it was edited, $W_0 + T + U\,\mathrm{diag}(s')\,V^\top$, so that every edit counts twice:
`prune_as_published`, for comparison with those rows only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources
from counterfact.editing.mass_edits import MassEditor, mass_editor
from counterfact.lm.edits.edit import Delta, Dense, Edit, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view

from .memit import MemitSettings, memit_writer

PAPER = "https://arxiv.org/abs/2405.16821"


@dataclass(frozen=True)
class Prune(MassEditor):
    """A prepared editor, with a last step."""

    limits: Mapping[str, float] = field(default_factory=dict)
    """σ of each edited module."""
    twice: bool = False
    """Whether the change itself is added to what becomes of it, as published."""

    def finish(self, edits: Sequence[Edit], /) -> Edit:
        """Return the edit that takes the place of all the edits made; see `contracts.editors.Finishing`."""
        ids = tuple(number for edit in edits for number in edit.request_ids)
        together = Edit(tuple(delta for edit in edits for delta in edit.deltas), ids)
        whole = Edit(tuple(self._restrained(*changes) for changes in together.by_module.items()), ids)
        return replace(whole, diagnostics={"update_frobenius": whole.frobenius()})

    def _restrained(self, module: str, mine: Sequence[Delta]) -> Delta:
        factors = [delta for delta in mine if isinstance(delta, LowRank)]
        if len(factors) < len(mine):
            change = torch.stack([delta.weight_change for delta in mine]).double().sum(0)
            u, s, vh = torch.linalg.svd(change, full_matrices=False)
            return Dense(module, (u * self._kept(module, s) @ vh).to(mine[0].weight_change))
        left, right = (torch.cat(parts).double() for parts in zip(*((d.left, d.right) for d in factors), strict=True))
        u, s, v = low_rank_svd(left, right)
        return LowRank(module, u.T.to(factors[0].left), (self._kept(module, s)[:, None] * v.T).to(factors[0].right))

    def _kept(self, module: str, values: Tensor) -> Tensor:
        """Return what the singular values of a module's whole change become."""
        return restrain(values, self.limits[module]) + (values if self.twice else 0)


def low_rank_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (d_in, k), s (k,) and V (d_out, k) of leftᵀ right = U diag(s) Vᵀ, without making that matrix.

    Args:
        left: (rank, d_in).
        right: (rank, d_out).
    """
    q_in, r_in = torch.linalg.qr(left.T)
    q_out, r_out = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(r_in @ r_out.T, full_matrices=False)
    return q_in @ u, s, q_out @ v.T


def restrain(values: Tensor, limit: float) -> Tensor:
    """Return singular values with s > σ cut down to ln s - ln σ + σ.

    >>> restrain(torch.tensor([2.0, 1.0, 0.5]), 1.0)
    tensor([1.6931, 1.0000, 0.5000])
    """
    return torch.where(values > limit, (values / limit).log() + limit, values)


def _prepare(lm: LM, settings: MemitSettings, resources: Resources, twice: bool) -> Prune:
    write, facts = memit_writer(lm, settings, resources)
    modules = [lm.layout.fc_out(layer) for layer in settings.layers]
    weights = {name: weight_view(lm.model, name).detach().to(lm.working_dtype) for name in modules}
    limits = {name: float(torch.linalg.matrix_norm(weight, 2)) for name, weight in weights.items()}
    return Prune.of(lm, settings, resources, write, facts, limits=limits, twice=twice)


@mass_editor(
    "prune",
    MemitSettings,
    title="PRUNE",
    paper=PAPER,
    summary="MEMIT batch after batch; at the end the whole change is held to the size of the weight",
    settings_folder="memit",
)
def prepare(lm: LM, settings: MemitSettings, resources: Resources) -> Editor:
    """PRUNE: the restrained change on the weight as it was."""
    return _prepare(lm, settings, resources, twice=False)


@mass_editor(
    "prune_as_published",
    MemitSettings,
    title="PRUNE (as published)",
    paper=PAPER,
    summary="PRUNE with a fault of the published code, which counts every edit twice",
    settings_folder="memit",
)
def prepare_as_published(lm: LM, settings: MemitSettings, resources: Resources) -> Editor:
    """PRUNE as AlphaEdit's code has it: the restrained change on the weight as it was edited."""
    return _prepare(lm, settings, resources, twice=True)
