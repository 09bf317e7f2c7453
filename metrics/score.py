"""Score S: one number for efficacy, generalization and specificity together.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, section 3.4.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterfact.contracts.metrics import COMPOSITES, Composite


def harmonic_mean(means: Any) -> NDArray[np.float64]:
    r"""Return the harmonic mean of the means of efficacy, paraphrase and neighborhood (specificity).

    $$S = \frac{3}{1/\overline{\mathrm{ES}} + 1/\overline{\mathrm{PS}} + 1/\overline{\mathrm{NS}}}$$

    The means over records come first and the harmonic mean once, never per record. A part that is 0 makes S 0; a part
    that is missing (NaN here) leaves it missing.

    Args:
        means: shape (..., parts), fractions or per cent.

    >>> round(float(harmonic_mean([22.2, 24.7, 78.1])), 1), float(harmonic_mean([1.0, 0.0, 1.0]))
    (30.5, 0.0)
    """
    values = np.asarray(means, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(values.shape[-1] / (1 / values).sum(axis=-1))


def harmonic_mean_of_totals(means: Any) -> NDArray[np.float64]:
    """Return the harmonic mean of the same three where probabilities of whole targets are compared, not their means.

    >>> round(float(harmonic_mean_of_totals([22.2, 24.7, 78.1])), 1)
    30.5
    """
    return harmonic_mean(means)


COMPOSITES.add(
    "S",
    Composite(
        symbol="S",
        unit="harmonic mean of %",
        better="higher",
        paper="arXiv:2202.05262",
        definition=1,
        combine=harmonic_mean,
    ),
)
COMPOSITES.add(
    "S_total",
    Composite(
        symbol="S_total",
        unit="harmonic mean of %",
        better="higher",
        paper="arXiv:2202.05262",
        definition=1,
        combine=harmonic_mean_of_totals,
    ),
)
