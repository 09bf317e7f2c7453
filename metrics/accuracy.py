"""Token accuracies of zsRE, under teacher forcing.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, Table 1.

Each is the share of an answer's tokens that the model puts first when it is given the question and the answer's
earlier tokens. It is not exact match, and not what the model would say by itself.
"""

from counterfact.contracts.metrics import Block, metric
from counterfact.statistics.values import accuracy

PAPER = "arXiv:2202.05262"


@metric("efficacy", "% of answer tokens", "higher", PAPER, "zsre")
def efficacy(block: Block) -> float | None:
    """Efficacy: the share of the new answer's tokens that are right after the edited question.

    >>> efficacy({"rewrite_prompts_correct": [True, True, False, True]})
    0.75
    """
    return accuracy(block, "rewrite")


@metric("paraphrase", "% of answer tokens", "higher", PAPER, "zsre")
def paraphrase(block: Block) -> float | None:
    """Paraphrase: the share of the new answer's tokens that are right after the question in other words.

    >>> paraphrase({"paraphrase_prompts_correct": [True, False]})
    0.5
    """
    return accuracy(block, "paraphrase")


@metric("specificity", "% of answer tokens", "higher", PAPER, "zsre")
def specificity(block: Block) -> float | None:
    """Specificity: the share of tokens that are right of the true answer to an unrelated question.

    >>> specificity({"neighborhood_prompts_correct": [True, False, False, False]})
    0.25
    """
    return accuracy(block, "neighborhood")
