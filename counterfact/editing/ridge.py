r"""Ridge regression on many keys: the closed form that the editors of many facts share.

With keys as the columns of K, n of them, and a positive definite S, two forms of one matrix:

$$K^\top (\lambda S + K K^\top)^{-1} = (\lambda I + K^\top S^{-1} K)^{-1} K^\top S^{-1}.$$

On the right (Woodbury) a system of n equations is solved, after one of d_in equations whose factor is kept with S; on
the left one of d_in equations that is new with every K. Products of float64, with $d = d_{in}$ and multiplications and
additions counted apart: $2 d^2 n + 4 d n^2 + n^3 / 3$ on the right, $4 d^2 n + d^3 / 3$ on the left.
"""

import torch
from torch import Tensor

from counterfact.lm.moments.second_moment import SecondMoment
from counterfact.lm.moments.solving import solve_factored

BLOCK = 1024
"""Keys that are added to K Kᵀ at once."""


def ridge_factor(keys: Tensor, weight: float, moment: SecondMoment | None = None, past: Tensor | None = None) -> Tensor:
    r"""Return the rows of $K^\top (\lambda S + K K^\top)^{-1}$ that belong to new keys, (n, d_in), float64.

    Args:
        keys: the new keys, (n, d_in), float64.
        weight: λ; with 0 the keys must be independent.
        moment: S, a second moment; by default the identity.
        past: keys that are in K as well, (N, d_in), float64.

    Raises:
        ArithmeticError: λ is 0 and the keys depend on each other, or it is too small for the system to be solved.

    >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    >>> ridge_factor(keys[:1], 1.0), ridge_factor(keys[:1], 1.0, past=keys[1:])
    (tensor([[0.5000, 0.0000]], dtype=torch.float64), tensor([[0.3333, 0.0000]], dtype=torch.float64))
    """
    whole = keys if past is None or not len(past) else torch.cat([past, keys])
    width = keys.shape[1]
    few = len(whole) < width if moment is None else 2 * len(whole) <= width
    if few or not weight:
        return _of_keys(whole, len(keys), weight, moment)
    return _of_width(whole, keys, weight, moment)


def _of_keys(whole: Tensor, new: int, weight: float, moment: SecondMoment | None) -> Tensor:
    """Solve as many equations as there are keys."""
    solved = whole if moment is None else moment.solve(whole).to(whole)
    inner = whole @ solved.T
    inner = (inner + inner.T) / 2
    inner.diagonal().add_(weight)
    factor = _cholesky(inner, weight)
    if new == len(whole):
        return solve_factored(factor, solved.T).T
    chosen = torch.eye(len(whole), dtype=whole.dtype, device=whole.device)[len(whole) - new :]
    return solve_factored(factor, chosen) @ solved


def _of_width(whole: Tensor, keys: Tensor, weight: float, moment: SecondMoment | None) -> Tensor:
    """Solve as many equations as a key is wide."""
    if moment is None:
        system = weight * torch.eye(whole.shape[1], dtype=whole.dtype, device=whole.device)
    else:
        system = weight * moment.matrix.to(whole)
        system.diagonal().add_(weight * moment.ridge)
    for block in torch.split(whole, BLOCK):
        system.addmm_(block.T, block)
    return solve_factored(_cholesky(system, weight), keys)


def _cholesky(system: Tensor, weight: float) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        told = f"a weight of {weight:.3g} is too small" if weight else "the keys depend on each other"
        raise ArithmeticError(told)
    return factor
