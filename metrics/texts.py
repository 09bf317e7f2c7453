"""Metrics of generated text, read from what was computed when it was generated: fluency, consistency, essence.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262
"""

from counterfact.contracts.metrics import Block, metric

from ._values import stored_number

PAPER = "arXiv:2202.05262"


@metric("GE", "bits x 100", "higher", PAPER, "counterfact", bounds=(0.0, None))
def generation_entropy(block: Block) -> float | None:
    r"""Generation entropy (fluency): mean over the generated texts of $(H_2 + 2 H_3) / 3$, in bits.

    $H_n$ is the entropy of a text's n-gram frequencies; `metrics.fluency` computes it and says what a word is.

    >>> generation_entropy({"ngram_entropy": 6.25})
    6.25
    """
    return stored_number(block, "ngram_entropy")


@metric("RS", "cosine x 100", "higher", PAPER, "counterfact")
def reference_score(block: Block) -> float | None:
    """Reference score (consistency): how near the generated texts are to texts about the new object's own subjects.

    The cosine of two TF-IDF vectors; `metrics.consistency` computes it.

    >>> reference_score({"reference_score": 0.5})
    0.5
    """
    return stored_number(block, "reference_score")


@metric("essence", "perplexity", "lower", PAPER, "counterfact", bounds=(0.0, None), scale=1.0)
def essence_score(block: Block) -> float | None:
    """Essence score: the perplexity of the reference texts about the subject itself, where there are any.

    `metrics.perplexity` computes it. Rare by construction, and not reported by the paper.

    >>> essence_score({"essence_score": 12.5})
    12.5
    """
    return stored_number(block, "essence_score")
