"""Essence: how well the model still says what is known of the subject, as the perplexity of texts about it.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, in its code only.
"""

import math
from collections.abc import Sequence

from counterfact.core.datasets import ReferenceTexts

MAX_TOKENS = 100
"""Texts are cut to so many tokens."""


def essence_text(
    references: ReferenceTexts | None, relation_id: str | None, target_id: str | None, subject: str
) -> str | None:
    """Return the reference texts of (relation, new object) that are about the subject itself, joined; `None` if none.

    The subject has another object, so that there is such a text only where it has both.
    """
    if references is None:
        return None
    texts = [snippet.text for snippet in references.get(relation_id, target_id) if snippet.name == subject]
    return " ".join(texts) or None


def perplexity(nlls: Sequence[float]) -> float | None:
    r"""Return $\exp\left(\frac{1}{T} \sum_{t=2}^{T} -\log p(x_t \mid x_{<t})\right)$ of a text of T tokens.

    The divisor is T, as the reference has it, though the first token is not predicted.

    Args:
        nlls: of the tokens from the second on, in nats: T - 1 values.

    Returns:
        `None` where there is no number, or it is too large for one.

    >>> round(perplexity([math.log(4), math.log(4), math.log(4)]), 9), perplexity([])
    (2.828427125, None)
    """
    mean = math.fsum(nlls) / (len(nlls) + 1)
    if not nlls or not math.isfinite(mean):
        return None
    try:
        return math.exp(mean)
    except OverflowError:
        return None
