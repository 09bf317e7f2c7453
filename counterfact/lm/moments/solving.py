"""Systems of equations whose Cholesky factor is at hand."""

import torch
from torch import Tensor

STRIP = 256
"""Columns of a factor that are solved together on a processor."""
SEVERAL = 4
"""From so many right-hand sides on; fewer take the time of reading the factor, and the library does no more."""


def solve_factored(lower: Tensor, rows: Tensor) -> Tensor:
    r"""Return $A^{-1} b$ for each row b, (n, d), where $A = L L^\top$ and L is `lower`, (d, d).

    `torch.cholesky_solve` copies the factor for each call, which at a width of 16,384 takes two gigabytes, and for few
    rows most of the time. On a processor the library's triangular solves are slow where rows are several and yet few;
    there the triangle is taken in strips, and what is not on its diagonal are products.

    >>> solve_factored(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(1, 2))
    tensor([[0.2500, 1.0000]])
    """
    width = len(lower)
    strip = STRIP if lower.device.type == "cpu" and len(rows) >= SEVERAL else width
    found = rows.mT.clone()
    for start in range(0, width, strip):
        own, rest = slice(start, start + strip), slice(start + strip, width)
        found[own] = torch.linalg.solve_triangular(lower[own, own], found[own], upper=False)
        found[rest].addmm_(lower[rest, own], found[own], alpha=-1)
    for start in reversed(range(0, width, strip)):
        own, rest = slice(start, start + strip), slice(0, start)
        found[own] = torch.linalg.solve_triangular(lower[own, own].mT, found[own], upper=True)
        found[rest].addmm_(lower[own, rest].mT, found[own], alpha=-1)
    return found.mT
