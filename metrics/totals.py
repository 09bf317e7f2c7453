r"""The same scores from probabilities of whole targets, as the paper's text has them.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262

In all of them $L(o) = -\log P(o \mid \text{prompt})$ is the sum over the target's tokens: the stored mean per token
times the number of tokens. They equal `metrics.success` and `metrics.magnitude` where every target is one token
(CounterFact under the GPT-2 tokenizer), and favour the shorter object elsewhere.
"""

from operator import gt, lt

from counterfact.contracts.metrics import Block, metric
from counterfact.statistics.values import magnitude, success, total_pairs

PAPER = "arXiv:2202.05262"


@metric("ES_total", "% of records", "higher", PAPER, "counterfact", interval="wilson")
def efficacy_score_total(block: Block) -> float | None:
    r"""Efficacy score of whole targets: $\mathbf{1}[L(o^*) < L(o^c)]$ after the prompt of the edit.

    >>> efficacy_score_total({"rewrite_prompts_probs": [{"target_new": 1.0, "target_true": 1.5}],
    ...                       "target_tokens": {"new": 2, "true": 1}})
    0.0
    """
    return success(total_pairs(block, "rewrite"), lt)


@metric("PS_total", "% of prompts", "higher", PAPER, "counterfact")
def paraphrase_score_total(block: Block) -> float | None:
    r"""Paraphrase score of whole targets: the mean of $\mathbf{1}[L_p(o^*) < L_p(o^c)]$ over paraphrases.

    >>> paraphrase_score_total({"paraphrase_prompts_probs": [{"target_new": 1.0, "target_true": 1.5}],
    ...                         "target_tokens": {"new": 1, "true": 2}})
    1.0
    """
    return success(total_pairs(block, "paraphrase"), lt)


@metric("NS_total", "% of prompts", "higher", PAPER, "counterfact")
def neighborhood_score_total(block: Block) -> float | None:
    r"""Neighborhood score of whole targets: the mean of $\mathbf{1}[L_p(o^c) < L_p(o^*)]$ over neighbors' prompts.

    >>> neighborhood_score_total({"neighborhood_prompts_probs": [{"target_new": 1.0, "target_true": 1.5}],
    ...                           "target_tokens": {"new": 2, "true": 1}})
    1.0
    """
    return success(total_pairs(block, "neighborhood"), gt)


@metric("AS_total", "% of prompts", "higher", "this project", "counterfact")
def attribute_score_total(block: Block) -> float | None:
    r"""Attribute score of whole targets: the mean of $\mathbf{1}[L_p(o^*) < L_p(o^c)]$ over attribute prompts.

    >>> attribute_score_total({"attribute_prompts_probs": [{"target_new": 1.0, "target_true": 1.5}],
    ...                        "target_tokens": {"new": 2, "true": 1}})
    0.0
    """
    return success(total_pairs(block, "attribute"), lt)


@metric("EM_total", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def efficacy_magnitude_total(block: Block) -> float | None:
    r"""Efficacy magnitude of whole targets: $e^{-L(o^*)} - e^{-L(o^c)}$ after the prompt of the edit.

    >>> efficacy_magnitude_total({"rewrite_prompts_probs": [{"target_new": 0.0, "target_true": 400.0}],
    ...                           "target_tokens": {"new": 3, "true": 2}})
    1.0
    """
    return magnitude(total_pairs(block, "rewrite"))


@metric("PM_total", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def paraphrase_magnitude_total(block: Block) -> float | None:
    r"""Paraphrase magnitude of whole targets: the mean of $e^{-L_p(o^*)} - e^{-L_p(o^c)}$ over paraphrases.

    >>> paraphrase_magnitude_total({"paraphrase_prompts_probs": [{"target_new": 400.0, "target_true": 0.0}],
    ...                             "target_tokens": {"new": 2, "true": 1}})
    -1.0
    """
    return magnitude(total_pairs(block, "paraphrase"))


@metric("NM_total", "percentage points", "higher", PAPER, "counterfact", bounds=(-1.0, 1.0))
def neighborhood_magnitude_total(block: Block) -> float | None:
    r"""Neighborhood magnitude of whole targets: the mean of $e^{-L_p(o^c)} - e^{-L_p(o^*)}$ over neighbors' prompts.

    >>> neighborhood_magnitude_total({"neighborhood_prompts_probs": [{"target_new": 400.0, "target_true": 0.0}],
    ...                               "target_tokens": {"new": 2, "true": 1}})
    1.0
    """
    return magnitude([(true, new) for new, true in total_pairs(block, "neighborhood")])


@metric("AM_total", "percentage points", "higher", "this project", "counterfact", bounds=(-1.0, 1.0))
def attribute_magnitude_total(block: Block) -> float | None:
    r"""Attribute magnitude of whole targets: the mean of $e^{-L_p(o^*)} - e^{-L_p(o^c)}$ over attribute prompts.

    >>> attribute_magnitude_total({"attribute_prompts_probs": [{"target_new": 0.0, "target_true": 400.0}],
    ...                            "target_tokens": {"new": 2, "true": 1}})
    1.0
    """
    return magnitude(total_pairs(block, "attribute"))
