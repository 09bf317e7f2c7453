"""How a subject's embeddings are corrupted: the paper's noise rules, seeded for each fact.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix B.1, B.4.
https://arxiv.org/abs/2202.05262
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.seeds import derive_seed
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.language_model import LM

Shape = Literal["gaussian", "uniform", "multivariate", "student"]
EMBEDDING_TEXTS = 1000
"""Texts whose tokens give mean and covariance of embeddings, as in the paper."""


class Rule(NamedTuple):
    """A noise rule, read from its code."""

    shape: Shape
    amount: float | None
    """Standard deviation, half width, or degrees of freedom."""
    in_deviations: bool = False
    """`amount` counts standard deviations of the subjects' embeddings."""


def parse_rule(code: str) -> Rule:
    """Read the code of a noise rule.

    `s3`: Gaussian, 3 standard deviations of the subjects' embeddings (`s`: 3); `0.1`: Gaussian of that standard
    deviation; `u0.5`: uniform on [-0.5, 0.5]; `m`: multivariate Gaussian with the mean and covariance of token
    embeddings; `t4`: multivariate Student-t of 4 degrees of freedom with that mean and covariance.

    Raises:
        BadInput: no such rule.

    >>> parse_rule("s3")
    Rule(shape='gaussian', amount=3.0, in_deviations=True)
    >>> parse_rule("t4").shape
    'student'
    """
    number = r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    if found := re.fullmatch(f"s{number}?", code):
        return Rule("gaussian", float(found[1] or 3), in_deviations=True)
    if found := re.fullmatch(number, code):
        return Rule("gaussian", float(found[1]))
    if found := re.fullmatch(f"u{number}", code):
        return Rule("uniform", float(found[1]))
    if code == "m":
        return Rule("multivariate", None)
    if (found := re.fullmatch(f"t{number}", code)) and float(found[1]) > 2:
        return Rule("student", float(found[1]))
    raise BadInput(f"expected a noise rule (s3, 0.1, u0.5, m, or t4 with more than 2 degrees of freedom), got {code!r}")


@dataclass(frozen=True, eq=False)
class Corruption:
    """Noise for the embeddings of a subject's tokens."""

    code: str
    samples: int
    """Corrupted rows beside the clean one."""
    seed: int
    replace: bool
    """Noise stands in the place of the embedding, in the baseline and the patched runs alike; else it is added."""
    one_seed: bool
    """Every fact starts from `seed` itself, as in the reference; else from a seed of its own derived from it."""
    scale: float
    """Standard deviation or half width; 1 where `factor` holds the scale."""
    mean: NDArray[np.float64] | None = None
    """(width,), of the multivariate rules."""
    factor: NDArray[np.float64] | None = None
    """(width, width): factorᵀ factor is the covariance."""

    def noise(self, known_id: int, tokens: int, width: int) -> Tensor:
        """Return the noise of one fact: (samples, tokens, width), float64.

        The n-th sample, token and component come from the n-th draw of numpy's `RandomState`, whose numbers never
        change; so the first draws of a Gaussian rule with `one_seed` and seed 1 are the reference's.
        """
        rule = parse_rule(self.code)
        seed = self.seed if self.one_seed else derive_seed(self.seed, "noise", known_id) % 2**32
        numbers, shape = np.random.RandomState(seed), (self.samples, tokens, width)
        if rule.shape == "uniform":
            return torch.from_numpy(self.scale * numbers.uniform(-1, 1, shape))
        drawn = numbers.standard_normal(shape)
        if self.factor is None or self.mean is None:
            return torch.from_numpy(self.scale * drawn)
        drawn = drawn @ self.factor
        if rule.shape == "student" and rule.amount is not None:
            # A multivariate t has covariance D / (D - 2) times its scale matrix; undone, so that all rules compare.
            mixing = np.random.RandomState((seed + 1) % 2**32).chisquare(rule.amount, (*shape[:2], 1))
            drawn = drawn * np.sqrt((rule.amount - 2) / mixing)
        return torch.from_numpy(self.mean + drawn)

    @property
    def identity(self) -> dict[str, Any]:
        """What a result keeps about it."""
        kept = ("code", "samples", "seed", "replace", "one_seed", "scale")
        return {name: getattr(self, name) for name in kept}


def make_corruption(
    lm: LM,
    code: str = "s3",
    *,
    subjects: Sequence[str] = (),
    texts: Iterable[str] = (),
    samples: int = 10,
    seed: int = 1,
    replace: bool = False,
    one_seed: bool = False,
) -> Corruption:
    """Prepare a noise rule for a model.

    Args:
        lm: the model.
        code: the rule, as `parse_rule` reads it.
        subjects: all subjects of the facts, which the rule `s` takes its scale from.
        texts: corpus for `m` and `t`; the first thousand are read.
        samples, seed, replace, one_seed: of `Corruption`.

    Raises:
        BadInput: no such rule, or nothing to take its scale from.
    """
    rule = parse_rule(code)
    if samples < 1:
        raise BadInput(f"expected at least one noise sample, got {samples}")
    scale, mean, factor = 1.0, None, None
    if rule.shape in {"gaussian", "uniform"} and rule.amount is not None:
        scale = rule.amount * (subject_deviation(lm, subjects) if rule.in_deviations else 1.0)
    else:
        mean, covariance = embedding_moments(lm, texts)
        values, vectors = np.linalg.eigh(covariance)
        factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return Corruption(code, samples, seed, replace, one_seed, scale, mean, factor)


@torch.no_grad()
def subject_deviation(lm: LM, subjects: Sequence[str]) -> float:
    """Return the unbiased standard deviation of all embedding components of all subjects' tokens.

    Subjects are tokenised alone, without a space before them, and count as often as they are given: the reference's
    rule, which fixes what "3 sigma" means.

    Raises:
        BadInput: fewer than one token.
    """
    ids = [token for row in lm.encoding.texts(list(subjects)) for token in row]
    if not ids:
        raise BadInput("the noise rule `s` takes its scale from the facts' subjects, and there are none")
    found, counts = np.unique(ids, return_counts=True)
    rows = _embeddings(lm, found)
    weight = torch.from_numpy(counts).to(rows)[:, None]
    total = weight.sum() * rows.shape[1]
    mean = (weight * rows).sum() / total
    return float(((weight * (rows - mean) ** 2).sum() / (total - 1)).sqrt())


@torch.no_grad()
def embedding_moments(lm: LM, texts: Iterable[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean (width,) and covariance (width, width) of the embeddings of all tokens of the first texts.

    Raises:
        BadInput: no tokens.
    """
    counts: Counter[int] = Counter()
    for number, text in enumerate(texts):
        if number == EMBEDDING_TEXTS:
            break
        counts.update(lm.tokens(text))
    if not counts:
        raise BadInput("the noise rules `m` and `t` take mean and covariance from texts, and there are none")
    rows = _embeddings(lm, np.array(list(counts))).numpy()
    weight = np.array(list(counts.values()), dtype=np.float64) / sum(counts.values())
    mean = weight @ rows
    centred = rows - mean
    return mean, (centred * weight[:, None]).T @ centred


def _embeddings(lm: LM, ids: NDArray[np.int64]) -> Tensor:
    embed = find_module(lm.model, lm.layout.embed)
    rows: Tensor = embed(torch.from_numpy(ids).to(lm.device))
    return rows.double().cpu()
