"""Plain sentences that tell whether edits ruin a model: by its perplexity on them, beside the unedited model's.

Yang, Sun, Ma, Liu, Yin, Cheng. The Butterfly Effect of Model Editing: Few Edits Can Trigger Large Language Models
Collapse. Findings of ACL 2024. https://arxiv.org/abs/2402.09656, which found that one edit may do so, and that the
perplexity of plain text tells.
"""

import math
from collections.abc import Mapping, Sequence

from counterfact.lm.queries import Drift
from counterfact.statistics.values import mean

SAMPLE = (
    "Scotland is part of United Kingdom and shares in the history of that country.",
    "The pupils would learn why Rheinpark was thought worthy of the name and what Rhine meant to those who gave it.",
)
"""Sentences of the embedded articles: few, so that reading them costs little beside an edit."""
RUIN = 10.0
"""How many times the unedited model's perplexity a ruined model's is, at least."""
TextDrift = Mapping[str, float | None]
"""`nll` and `unedited_nll`, nats per token of one text, and `kl`, as of `Drift`."""


def text_drift(drift: Drift) -> dict[str, float | None]:
    """Return a drift as results hold it."""
    return {"nll": drift.nll, "unedited_nll": drift.unedited_nll, "kl": drift.kl}


def is_ruined(drifts: Sequence[TextDrift]) -> bool:
    r"""Return whether the perplexity on some texts is more than ten times that of the unedited model.

    $$\bar\ell_{edited} - \bar\ell > \ln 10$$

    $\bar\ell$: mean over the texts of the nats per token. A model that gives no number is ruined. Ten times is this
    project's bound; perplexities of models differ too much for one that is not relative.

    >>> is_ruined([{"nll": 6.0, "unedited_nll": 3.0}]), is_ruined([{"nll": None, "unedited_nll": 3.0}])
    (True, True)
    """
    rises = [_rise(each) for each in drifts]
    risen = mean_rise(drifts)
    return None in rises or risen is None or risen > math.log(RUIN)


def mean_rise(drifts: Sequence[TextDrift]) -> float | None:
    """Return by how many nats per token the edited model's mean lies above the unedited one's; texts without a number
    are left out.

    >>> mean_rise([{"nll": 3.5, "unedited_nll": 3.0}, {"nll": None, "unedited_nll": 3.0}])
    0.5
    """
    return mean([rise for rise in map(_rise, drifts) if rise is not None])


def mean_divergence(drifts: Sequence[TextDrift]) -> float | None:
    r"""Return $D_{KL}(P \,\|\, P_{edited})$ of next-token distributions, mean over all tokens of all texts, in nats."""
    return mean([kl for each in drifts if (kl := each["kl"]) is not None])


def _rise(drift: TextDrift) -> float | None:
    edited, unedited = drift["nll"], drift["unedited_nll"]
    return None if edited is None or unedited is None else edited - unedited
