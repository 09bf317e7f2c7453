r"""Success scores of CounterFact: whether the likelier object is the one that should be.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262

In all of them $\ell(o) = -\frac{1}{|o|} \log P(o \mid \text{prompt})$, in nats per token of the target. The paper
writes probabilities; its code compares these means over tokens, which differs when the objects have unequal
lengths, and so do we (`metrics.totals` has the other). A tie is a failure, on every side, and so is a value that
the model did not give (NaN).
"""

from operator import gt, lt

from counterfact.contracts.metrics import Block, metric
from counterfact.statistics.values import pairs, success

PAPER = "arXiv:2202.05262"


@metric("ES", "% of records", "higher", PAPER, "counterfact", interval="wilson")
def efficacy_score(block: Block) -> float | None:
    r"""Efficacy score: whether, after the prompt of the edit, the new object is likelier than the true one.

    $$\mathrm{ES} = \mathbf{1}\left[\ell(o^*) < \ell(o^c)\right]$$

    >>> efficacy_score({"rewrite_prompts_probs": [{"target_new": 0.5, "target_true": 7.2}]})
    1.0
    >>> efficacy_score({"rewrite_prompts_probs": [{"target_new": 2.0, "target_true": 2.0}]})
    0.0
    """
    return success(pairs(block, "rewrite"), lt)


@metric("PS", "% of prompts", "higher", PAPER, "counterfact")
def paraphrase_score(block: Block) -> float | None:
    r"""Paraphrase score: the share of paraphrases after which the new object is likelier than the true one.

    $$\mathrm{PS} = \operatorname{mean}_{p \in P^P} \mathbf{1}\left[\ell_p(o^*) < \ell_p(o^c)\right]$$

    >>> paraphrase_score({"paraphrase_prompts_probs": [{"target_new": 1.0, "target_true": 3.0},
    ...                                                {"target_new": 4.0, "target_true": 3.0}]})
    0.5
    """
    return success(pairs(block, "paraphrase"), lt)


@metric("NS", "% of prompts", "higher", PAPER, "counterfact")
def neighborhood_score(block: Block) -> float | None:
    r"""Neighborhood score: the share of prompts about neighbors where the true object is the likelier one.

    A neighbor is another subject with the same relation and the same true object, which the edit should leave alone.

    $$\mathrm{NS} = \operatorname{mean}_{p \in P^N} \mathbf{1}\left[\ell_p(o^c) < \ell_p(o^*)\right]$$

    >>> neighborhood_score({"neighborhood_prompts_probs": [{"target_new": 1.0, "target_true": 3.0},
    ...                                                    {"target_new": 4.0, "target_true": 3.0}]})
    0.5
    """
    return success(pairs(block, "neighborhood"), gt)


@metric("AS", "% of prompts", "higher", "this project", "counterfact")
def attribute_score(block: Block) -> float | None:
    r"""Attribute score: the share of attribute prompts where the new object is likelier than the true one.

    The new object is true of these subjects, before the edit and after. The reference computes the values and
    reports nothing of them.

    $$\mathrm{AS} = \operatorname{mean}_{p \in P^A} \mathbf{1}\left[\ell_p(o^*) < \ell_p(o^c)\right]$$

    >>> attribute_score({"attribute_prompts_probs": [{"target_new": 1.0, "target_true": 3.0}]})
    1.0
    """
    return success(pairs(block, "attribute"), lt)
