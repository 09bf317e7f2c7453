r"""Magnitudes of CounterFact: by how much the object is likelier that should be.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262

In all of them $\ell(o) = -\frac{1}{|o|} \log P(o \mid \text{prompt})$, in nats per token, so that $e^{-\ell}$ is the
probability for a target of one token, and the geometric mean over tokens for a longer one (`metrics.totals` has the
probability of the whole). A prompt with a value that the model did not give (NaN) is left out.
"""

from counterfact.contracts.metrics import Block, metric
from counterfact.statistics.values import magnitude, pairs

PAPER = "arXiv:2202.05262"


@metric("EM", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def efficacy_magnitude(block: Block) -> float | None:
    r"""Efficacy magnitude: probability of the new object less that of the true one, after the prompt of the edit.

    $$\mathrm{EM} = e^{-\ell(o^*)} - e^{-\ell(o^c)}$$

    >>> efficacy_magnitude({"rewrite_prompts_probs": [{"target_new": 0.0, "target_true": 800.0}]})
    1.0
    """
    return magnitude(pairs(block, "rewrite"))


@metric("PM", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def paraphrase_magnitude(block: Block) -> float | None:
    r"""Paraphrase magnitude: the mean over paraphrases of the new object's probability less the true one's.

    $$\mathrm{PM} = \operatorname{mean}_{p \in P^P} \left( e^{-\ell_p(o^*)} - e^{-\ell_p(o^c)} \right)$$

    >>> paraphrase_magnitude({"paraphrase_prompts_probs": [{"target_new": 0.0, "target_true": 800.0},
    ...                                                    {"target_new": 800.0, "target_true": 0.0}]})
    0.0
    """
    return magnitude(pairs(block, "paraphrase"))


@metric("NM", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def neighborhood_magnitude(block: Block) -> float | None:
    r"""Neighborhood magnitude: the mean over neighbors' prompts of the true object's probability less the new one's.

    $$\mathrm{NM} = \operatorname{mean}_{p \in P^N} \left( e^{-\ell_p(o^c)} - e^{-\ell_p(o^*)} \right)$$

    >>> neighborhood_magnitude({"neighborhood_prompts_probs": [{"target_new": 800.0, "target_true": 0.0}]})
    1.0
    """
    return magnitude([(true, new) for new, true in pairs(block, "neighborhood")])


@metric("AM", "percentage points", "higher", "this project", "counterfact", bounds=(-1.0, 1.0))
def attribute_magnitude(block: Block) -> float | None:
    r"""Attribute magnitude: the mean over attribute prompts of the new object's probability less the true one's.

    $$\mathrm{AM} = \operatorname{mean}_{p \in P^A} \left( e^{-\ell_p(o^*)} - e^{-\ell_p(o^c)} \right)$$

    >>> attribute_magnitude({"attribute_prompts_probs": [{"target_new": 0.0, "target_true": 800.0}]})
    1.0
    """
    return magnitude(pairs(block, "attribute"))
