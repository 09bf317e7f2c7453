"""Linear systems by their Cholesky factor, without a copy of it."""

import torch
from torch import Tensor


def solve_factored(lower: Tensor, rows: Tensor) -> Tensor:
    r"""Return $A^{-1} b$ for each row b, (n, d), where $A = L L^\top$ and L is `lower`, (d, d).

    `torch.cholesky_solve` copies the factor for each call, which at a width of 16,384 takes two gigabytes, and for few
    rows most of the time.

    >>> solve_factored(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(1, 2))
    tensor([[0.2500, 1.0000]])
    """
    half = torch.linalg.solve_triangular(lower, rows.mT, upper=False)
    found: Tensor = torch.linalg.solve_triangular(lower.mT, half, upper=True).mT
    return found
