"""Fluency of generated text: the entropy of its n-grams, low where a text repeats itself.

Zhang et al. Generating Informative and Diverse Conversational Responses via Adversarial Information Maximization.
NeurIPS 2018. https://arxiv.org/abs/1809.05972, weighted as in Meng et al. 2022, https://arxiv.org/abs/2202.05262
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from counterfact.contracts.metrics import TextMeasure, text_metric
from counterfact.core.records import ReferenceTexts


def split_words(text: str) -> list[str]:
    """Split a text into words and punctuation: into sentences first, then as nltk's word tokenizer does.

    What splits it into sentences decides whether a full stop inside the text is a word of its own: here Punkt with its
    default parameters, which needs no download (it also splits after "U.S.").

    >>> split_words("It rains. They stay.")
    ['It', 'rains', '.', 'They', 'stay', '.']
    """
    return _splitter()(text)


@cache
def _splitter() -> Callable[[str], list[str]]:
    """Return what splits a text; making it compiles patterns, which takes longer than a text does."""
    from nltk.tokenize import NLTKWordTokenizer, PunktSentenceTokenizer  # noqa: PLC0415

    words, split = NLTKWordTokenizer().tokenize, PunktSentenceTokenizer().tokenize
    return lambda text: [word for part in split(text) for word in words(part)]


def n_gram_entropy(words: Sequence[str], n: int) -> float:
    r"""Return the entropy of a text's n-grams, $H_n = -\sum_g f_g \log_2 f_g$, in bits.

    A text of fewer than n words has entropy 0.

    >>> n_gram_entropy(["a", "b", "a", "b", "a"], 2), n_gram_entropy(["a"], 2)
    (1.0, 0.0)
    """
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return math.fsum(-count / total * math.log2(count / total) for count in counts.values()) if total else 0.0


def text_entropy(text: str) -> float:
    r"""Return $(H_2 + 2 H_3) / 3$ of one text, in bits: the mean of $\frac{2}{3} H_2$ and $\frac{4}{3} H_3$.

    >>> text_entropy("so so so so")
    0.0
    """
    words = split_words(text)
    return (n_gram_entropy(words, 2) + 2 * n_gram_entropy(words, 3)) / 3


def generation_entropy(texts: Sequence[str]) -> float | None:
    """Return the mean of `text_entropy` over the texts of one record, in bits; `None` where there is none.

    >>> generation_entropy([]) is None
    True
    """
    return math.fsum(text_entropy(text) for text in texts) / len(texts) if texts else None


@text_metric(
    "GE",
    "ngram_entropy",
    "bits x 100",
    "higher",
    "arXiv:2202.05262",
    "counterfact",
    needs=("nltk",),
    collapsed_below=0.5,
    bounds=(0.0, None),
)
def fluency(_references: ReferenceTexts | None) -> TextMeasure:
    r"""Generation entropy (fluency): mean over the generated texts of $(H_2 + 2 H_3) / 3$, in bits.

    $H_n$ is the entropy of a text's n-gram frequencies. Words are those of nltk's PunktSentenceTokenizer, untrained,
    then NLTKWordTokenizer.

    >>> fluency(None)(["one two three"], {})
    0.3333333333333333
    """
    return lambda texts, _rewrite: generation_entropy(texts)
