"""The MLP's first product and its GELU in one: oneDNN applies it to what it has just computed, still in the cache."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from lm.hooks import find_module
from lm.loading import LM
from lm.products import _packing_of, packs_products

ALGORITHMS: dict[type[nn.Module], str] = {GELUActivation: "none", GELUTanh: "tanh", NewGELUActivation: "tanh"}
"""What oneDNN calls each of them."""


@contextmanager
def fused_activations(lm: LM) -> Iterator[None]:
    """Within `packed_products`, fuse the GELU of each MLP that is one projection, a GELU, and another projection.

    For passes without gradients and without hooks inside an MLP; does nothing where `packs_products` says no, or for
    other activations.
    """
    with ExitStack() as stack:
        for layer in range(lm.n_layers) if packs_products(lm) else ():
            up, mlp = (find_module(lm.model, name(layer)) for name in (lm.layout.up, lm.layout.mlp))
            children = list(mlp.children())
            activations = [child for child in children if type(child) in ALGORITHMS]
            projections = [child for child in children if isinstance(child, nn.Linear | Conv1D)]
            if len(activations) == 1 and len(projections) == 2 and projections[0] is up:
                _hide(stack, up, _product(up, ALGORITHMS[type(activations[0])]))
                # All layers may share one activation: it is hidden, and shown again, once.
                if "forward" not in vars(activations[0]):
                    _hide(stack, activations[0], lambda states: states)
        yield


def _hide(stack: ExitStack, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    """Put a function in the place of a module's method until the stack is unwound."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    if before is None:
        stack.callback(vars(module).pop, "forward")
    else:
        stack.callback(vars(module).__setitem__, "forward", before)


def _product(module: Any, algorithm: str) -> Callable[[Tensor], Tensor]:
    def forward(states: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.detach()
        packed = _packing_of(module).forward
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "gelu", [], algorithm)
        return result

    return forward
