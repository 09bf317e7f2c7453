"""How far the direction of an edit is from the one that endless text would give, told from two halves of a corpus."""

from typing import NamedTuple

import torch
from torch import Tensor


class SamplingError(NamedTuple):
    """What a second moment of so many tokens does to an edit, estimated."""

    cosine: float
    """Mean over keys of the cosine between u = C⁻¹k and the u of endless text of the same kind."""
    update: float
    """Root mean square over keys of ||Δ - Δ'|| / ||Δ'||, Δ the update and Δ' that of endless text."""
    halves: float
    """Mean over keys of the cosine between the two halves' u: what was measured."""
    keys: int
    """How many keys it was measured at."""

    def left(self, share: float) -> "SamplingError":
        """Return the error against a whole, of which this is a random share, instead of against endless text."""
        tangent = (1 / max(self.cosine, 1e-9) ** 2 - 1) * (1 - share)
        return self._replace(cosine=(1 + tangent) ** -0.5, update=self.update * (1 - share) ** 0.5)


def sampling_error(first: Tensor, second: Tensor, directions: Tensor, keys: Tensor) -> SamplingError | None:
    r"""Estimate how far $u = C^{-1} k$ is from its limit, by the halves $C_A$, $C_B$ of the corpus.

    $u_A$ and $u_B$ err independently, so $\cos(u_A, u_B) = \cos^2 \theta_{n/2}$, where $\theta_m$ is the angle
    between a direction from m tokens and the limit; and the error's variance falls as 1 / m:

    $$\tan^2 \theta_n = \tfrac{1}{2} \tan^2 \theta_{n/2} = \tfrac{1}{2} \left(\frac{1}{\cos(u_A, u_B)} - 1\right)$$

    The update is $\Delta = (v^* - m) w^\top$ with $w = u / (k \cdot u)$; there
    $\|w - w'\|^2 = \|w_A - w_B\|^2 / 4$. Assumes that texts come in random order, or that neighbors are as unlike as
    others; that halves are about equal; that n is large beside D. Measured (`tests/lm/test_moment_error.py`): the angle
    is right within 15 % where the cosine is above 0.85, and too small rather than too large; below, the update's
    error is up to a fifth too small.

    Args:
        first, second: the halves' second moments, float64 (D, D).
        directions: u of the whole, (keys, D), any length.
        keys: k, (keys, D).

    Returns:
        None where a half is singular, so that its tokens determine no direction, or there is no key.
    """
    factors = [torch.linalg.cholesky_ex(half) for half in (first, second)]
    if not len(keys) or any(int(failed) for _, failed in factors):
        return None
    keys = keys.to(first)
    a, b = (torch.cholesky_solve(keys.T, factor).T for factor, _ in factors)
    cosines = torch.nn.functional.cosine_similarity(a, b).clamp(1e-9, 1)
    tangents = (1 / cosines - 1) / 2
    w_a, w_b, w = (u / (u * keys).sum(1, keepdim=True) for u in (a, b, directions.to(first)))
    relative = (w_a - w_b).square().sum(1) / 4 / w.square().sum(1)
    numbers = ((1 + tangents).rsqrt().mean(), relative.mean().sqrt(), cosines.mean())
    cosine, update, alike = (round(float(number), 6) for number in numbers)
    return SamplingError(cosine, update, alike, len(keys))
