"""What an edited model is measured by, written to be read: one prompt, one token at a time, nothing kept.

The second half of `tests.support.oracle`, with the same rules.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch

from tests.support.oracle import Model, Tokenizer, encode, logits


@torch.no_grad()
def token_nlls(model: Model, tokenizer: Tokenizer, prompt: str, target: str) -> list[float]:
    """-log p of each token of the target after the prompt, in nats."""
    target = target if target.startswith(" ") else " " + target
    labels, start = encode(tokenizer, target), len(encode(tokenizer, prompt))
    log_p = logits(model, encode(tokenizer, prompt + target)).log_softmax(-1)
    return [-float(log_p[start - 1 + j, label]) for j, label in enumerate(labels)]


@torch.no_grad()
def answer_correct(model: Model, tokenizer: Tokenizer, question: str, answer: str) -> list[bool]:
    """Whether the model's first choice is each token of the answer, one token after the other."""
    ids = encode(tokenizer, " " + answer)
    correct = []
    for i, token in enumerate(ids):
        given = encode(tokenizer, question + tokenizer.decode(ids[:i]))
        wanted = encode(tokenizer, tokenizer.decode([token]))[0]
        correct.append(int(logits(model, given)[-1].argmax()) == wanted)
    return correct


@torch.no_grad()
def greedy(model: Model, tokenizer: Tokenizer, prompt: str, length: int) -> tuple[list[int], float]:
    """Extend the prompt to `length` tokens by the likeliest one each.

    Returns:
        The ids, and how near any choice was: the smallest gap between the two best logits.
    """
    ids, gap = encode(tokenizer, prompt), float("inf")
    while len(ids) < length:
        best, second = logits(model, ids)[-1].topk(2).values
        gap = min(gap, float(best - second))
        ids.append(int(logits(model, ids)[-1].argmax()))
    return ids, gap


def clean_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids as it is measured."""
    text = unicodedata.normalize("NFKD", tokenizer.decode(list(ids)))
    return text.replace("\n\n", " ").replace("<|endoftext|>", "")


def n_gram_entropy(text: str) -> float:
    """(H_2 + 2 H_3) / 3 in bits over nltk's words, sentences split by an untrained Punkt."""
    import nltk

    sentences = nltk.tokenize.PunktSentenceTokenizer().tokenize(text)
    words = [word for sentence in sentences for word in nltk.tokenize.NLTKWordTokenizer().tokenize(sentence)]
    entropies = []
    for n in (2, 3):
        counts = np.array(list(nltk.FreqDist(nltk.ngrams(words, n)).values()), dtype=float)
        shares = counts / counts.sum()
        entropies.append(float(-(shares * np.log2(shares)).sum()))
    return float(np.mean([2 / 3 * entropies[0], 4 / 3 * entropies[1]]))


def reference_score(corpus: Sequence[str], generated: Sequence[str], reference: Sequence[str]) -> float:
    """Cosine of the TF-IDF vectors of the joined texts, weights fitted on the corpus."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer().fit(corpus)
    one, other = vectoriser.transform([" ".join(generated), " ".join(reference)]).toarray()
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
