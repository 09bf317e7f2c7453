"""Passes in float32 through a model of bfloat16 weights, each of which is widened while it is multiplied.

A product in bfloat16 is rounded to 8 bits, and where its sum is near a boundary, the rows beside it decide to which
side. A search of many steps makes of that another edit. In float32 an edit moves in its last digits alone.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers.pytorch_utils import Conv1D

from counterfact.lm.model.hooks import shadowed
from counterfact.lm.model.loading import LM


@contextmanager
def wide_passes(lm: LM) -> Iterator[None]:
    """Compute in `lm.working_dtype` within the block, whatever the dtype of the weights; a wider model stays as it is.

    States are wide from the embeddings on. The weights in memory are the same; beside them there is a wide copy of one
    projection at a time, on the way there and on the way back. Gradients reach states, never weights.
    """
    with ExitStack() as stack:
        for module in lm.model.modules() if lm.dtype != lm.working_dtype else ():
            if "forward" not in vars(module) and (forward := _widened(module, lm.working_dtype)) is not None:
                stack.enter_context(shadowed(module, "forward", forward))
        yield


def _widened(module: nn.Module, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """Return a forward pass in a wider dtype; `None` for modules that widen by themselves, as norms by hand do."""
    if isinstance(module, nn.Linear | Conv1D):
        return partial(_multiply, module, dtype)
    if isinstance(module, nn.LayerNorm):
        return partial(_normalise, module, dtype)
    if isinstance(module, nn.Embedding):
        own = module.forward
        return lambda *given, **named: own(*given, **named).to(dtype)
    return None


def _multiply(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    result: Tensor = _Product.apply(states.to(dtype), module)  # type: ignore[no-untyped-call]
    return result


def _normalise(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    weight, bias = (None if it is None else it.to(dtype) for it in (module.weight, module.bias))
    return layer_norm(states.to(dtype), module.normalized_shape, weight, bias, module.eps)


class _Product(torch.autograd.Function):
    """A product that widens its weight each time, so that no wide copy waits for the way back."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, module: Any) -> Tensor:
        ctx.module = module
        product = states @ _matrix(module).to(states.dtype)
        return product if module.bias is None else product + module.bias.to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ _matrix(ctx.module).to(gradient.dtype).T, None


def _matrix(module: Any) -> Tensor:
    """The weight as (d_in, d_out)."""
    weight: Tensor = module.weight.detach()
    return weight if isinstance(module, Conv1D) else weight.T
