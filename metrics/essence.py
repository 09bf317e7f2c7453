"""Essence: how well the model still says what is known of the subject, as the perplexity of texts about it.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, in its code only.
"""

from counterfact.contracts.metrics import Block, metric
from counterfact.core.files import finite


@metric("essence", "perplexity", "lower", "arXiv:2202.05262", "counterfact", bounds=(0.0, None), scale=1.0)
def essence_score(block: Block) -> float | None:
    """Essence score: the perplexity of the reference texts about the subject itself, where there are any.

    Rare by construction, and not reported by the paper.

    >>> essence_score({"essence_score": 12.5})
    12.5
    """
    return finite(block.get("essence_score"))
