"""Adam for many independent problems side by side, one per row of a tensor.

Kingma, Ba. Adam: A Method for Stochastic Optimization. ICLR 2015. https://arxiv.org/abs/1412.6980
"""

import torch
from torch import Tensor


class Adam:
    """Adam with betas 0.9 and 0.999 and epsilon 1e-8, elementwise, so that rows never see each other.

    All rows must have taken the same number of steps; rows may leave, none may join.

    Args:
        like: the parameters, first dimension one problem a row.
        learning_rate: step size.

    >>> x = torch.tensor([[1.0], [0.0]])
    >>> Adam(x, 0.5).step_(x, torch.tensor([[2.0], [0.0]]))
    >>> x
    tensor([[0.5000],
            [0.0000]])
    """

    def __init__(self, like: Tensor, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)
        self._steps = 0

    def step_(self, parameter: Tensor, gradient: Tensor) -> None:
        """Move `parameter` in place by one step."""
        self._steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self._square / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
        parameter.addcdiv_(self._mean, scale, value=-self.learning_rate / (1 - 0.9**self._steps))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._mean = self._mean[rows]
        self._square = self._square[rows]
