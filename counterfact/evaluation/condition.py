"""What has become of a model after many edits: plain texts, known facts, the size of the changes, hidden states."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterfact.core.files import finite
from counterfact.core.records import Record
from counterfact.evaluation.plain_texts import SAMPLE, is_ruined, mean_divergence, mean_rise, text_drift
from counterfact.lm.drift import text_drifts
from counterfact.lm.edits.apply import per_row
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.blocks import embed, pad_right, run_blocks
from counterfact.lm.model.encoding import Located
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score


class Watch:
    """Looks at a model as it was edited so far, beside the unedited one, on what no edit was about.

    Args:
        lm: the model, unedited.
        known: records that are not edited, whose facts the unedited model knows.
        plan: sizes of batches.
    """

    def __init__(self, lm: LM, known: Sequence[Record], plan: Plan) -> None:
        self._lm, self._known, self._plan = lm, known, plan
        self._spectral: dict[str, float | None] = {}
        """The largest singular values of unedited weights, by module."""

    def look(self, total: Edit) -> dict[str, Any]:
        """Return what has become of the model.

        Args:
            total: all edits as one, with one change for each module.

        Returns:
            JSON values: `ruined`, `perplexity_rise` (nats per token) and `divergence` (nats) on the plain texts,
            `texts` themselves, `known_facts` (how many were asked, and are still known), `weights` (by module),
            `hidden`.
        """
        [drifts] = text_drifts(self._lm, SAMPLE, [0], [total], plan=self._plan)
        unread = {"nll": None, "unedited_nll": None, "kl": None}
        texts = [dict(unread) if isinstance(each, Unscored) else text_drift(each) for each in drifts]
        return {
            "ruined": is_ruined(texts),
            "perplexity_rise": mean_rise(texts),
            "divergence": mean_divergence(texts),
            "texts": texts,
            "known_facts": _known_facts(self._lm, total, self._known, self._plan),
            "weights": {
                delta.module: _size_of_change(self._lm, delta.module, delta.weight_change)
                | {"weight_spectral": self._unedited(delta.module)}
                for delta in total.deltas
            },
            "hidden": _hidden(self._lm, total, self._known),
        }

    def _unedited(self, module: str) -> float | None:
        if module not in self._spectral:
            self._spectral[module] = largest_singular_value(weight_view(self._lm.model, module).detach().double())
        return self._spectral[module]


def _size_of_change(lm: LM, module: str, change: Tensor) -> dict[str, float | None]:
    r"""Return how large a change of a weight is, in float64 and beside the weight W_0.

    Args:
        lm: the model, unedited.
        module: whose weight is changed.
        change: $\Delta = W_t - W_0$, (d_in, d_out).

    Returns:
        `norm_ratio` $\|W_t\|_F / \|W_0\|_F$, `change` $\|\Delta\|_F$, and `change_spectral`, the largest singular
        value of Δ; `None` for what is not finite.
    """
    before, change = weight_view(lm.model, module).detach().double(), change.double()
    return {
        "norm_ratio": finite(float((before + change).norm() / before.norm())),
        "change": finite(float(change.norm())),
        "change_spectral": largest_singular_value(change),
    }


def largest_singular_value(matrix: Tensor) -> float | None:
    r"""Return $\sigma_{max}(A) = \sqrt{\lambda_{max}(A^\top A)}$, of the smaller of the two products; `None` of NaN.

    >>> largest_singular_value(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]).double())
    3.0
    """
    if not bool(matrix.isfinite().all()):
        return None
    product = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return float(torch.linalg.eigvalsh(product)[-1].clamp(min=0).sqrt())


def _known_facts(lm: LM, edit: Edit, known: Sequence[Record], plan: Plan) -> dict[str, int]:
    """Return how many facts were asked for, and how many of their true objects are still said, greedily."""
    requests = [record.request for record in known]
    queries = [Query(r.filled, (r.target_true,), r.joiner) for r in requests if r.target_true is not None]
    scores = score(lm, queries, [0] * len(queries), [edit], plan=plan)
    said = [not isinstance(found, Unscored) and all(found[0].correct) for found in scores]
    return {"asked": len(said), "known": sum(said)}


@torch.no_grad()
def _hidden(lm: LM, edit: Edit, known: Sequence[Record]) -> dict[str, Any] | None:
    """Return the mean norm of the stream after the last edited layer, at the subjects' last tokens of known facts.

    Returns:
        `layer`, `norm` under the edit and `unedited_norm`, and `shift`: the mean norm of the difference as a share of
        the unedited norm; `None` where there is nothing to look at.
    """
    inside = [i for i in range(lm.n_layers) if any(m.startswith(f"{lm.layout.block(i)}.") for m in edit.modules)]
    places = [place for record in known for place in _subject_of(lm, record)]
    if not places or not inside:
        return None
    ids, lengths = pad_right([place.ids[: place.position + 1] for place in places], lm.device)
    rows = torch.arange(len(places), device=lm.device)

    def look() -> Tensor:
        states = run_blocks(lm, embed(lm, ids), 0, inside[-1] + 1)
        return states[rows, lengths - 1].double()

    before = look()
    with per_row(lm, [edit], [0] * len(places)):
        now = look()
    shift = (now - before).norm(dim=1) / before.norm(dim=1)
    values = {"norm": now.norm(dim=1), "unedited_norm": before.norm(dim=1), "shift": shift}
    return {"layer": inside[-1], **{name: finite(float(value.mean())) for name, value in values.items()}}


def _subject_of(lm: LM, record: Record) -> list[Located]:
    """Return the prompt and its subject's last token, if it has one."""
    try:
        return lm.locate([record.request.prompt], [record.request.subject])
    except ValueError:
        return []
