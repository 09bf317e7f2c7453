"""Matrix products by oneDNN with packed weights: on many processors faster than the library torch takes by itself.

MKL runs narrower code on some processors than they have, most of all on products with few rows; oneDNN does not, and
takes its weights packed. A module's packed weights are kept for as long as the weights stay as they are.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from counterfact.lm.forward.operators import multiply_packed, pack_weight, packed_linear
from counterfact.lm.model.hooks import shadowed
from counterfact.lm.model.loading import LM


@contextmanager
def packed_products(lm: LM) -> Iterator[None]:
    """Let every projection of the model use packed weights within the block; gradients reach inputs, never weights.

    A second copy of the weights is kept from the first use on, a third where gradients are requested. Does nothing
    where `packs_products` says no, or within another such block. Hooks act as before, and the weights must not be
    changed within the block.
    """
    if not packs_products(lm):
        yield
        return
    with ExitStack() as stack:
        for module in lm.model.modules():
            if isinstance(module, nn.Linear | Conv1D) and "forward" not in vars(module):
                stack.enter_context(shadowed(module, "forward", MethodType(_forward, module)))
        yield


def packs_products(lm: LM) -> bool:
    """Return whether a model's products can be packed: on a processor, in single precision, oneDNN not switched off."""
    mkldnn: Any = torch.backends.mkldnn
    can = lm.device.type == "cpu" and lm.dtype == torch.float32 and mkldnn.is_available() and bool(mkldnn.enabled)
    return can and packed_linear.works


@dataclass
class _Packed:
    """The packed weights of a module, made when they are first needed."""

    state: tuple[int, int]
    """Address of the weight that was packed, and how often it had been written to."""
    forward: Tensor
    backward: Tensor | None = None


_packed: WeakKeyDictionary[nn.Module, _Packed] = WeakKeyDictionary()


def _packing_of(module: Any) -> _Packed:
    weight = module.weight
    state = (weight.data_ptr(), weight._version)
    found = _packed.get(module)
    if found is None or found.state != state:
        found = _packed[module] = _Packed(state, _pack(_by_output(module)))
    return found


def packed_weight(module: nn.Module) -> Tensor:
    """Return a projection's weight as oneDNN wants it, made when it is first asked for."""
    return _packing_of(module).forward


def _by_output(module: Any) -> Tensor:
    """The weight as (d_out, d_in)."""
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _pack(weight: Tensor) -> Tensor:
    # Made outside of inference mode even where a block of it is open, so that autograd may keep it.
    with torch.inference_mode(False):
        return pack_weight(weight)


def _forward(module: Any, states: Tensor) -> Tensor:
    if module.weight.requires_grad:
        result: Tensor = type(module).forward(module, states)
        return result
    if torch.is_grad_enabled() and states.requires_grad:
        result = _Product.apply(states, module)  # type: ignore[no-untyped-call]
        return result
    return multiply_packed(states, _packing_of(module).forward, _bias(module))


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()


class _Product(torch.autograd.Function):
    """A product whose gradient is requested at its input only."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, module: Any) -> Tensor:
        ctx.module = module
        return multiply_packed(states, _packing_of(module).forward, _bias(module))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        packing = _packing_of(ctx.module)
        if packing.backward is None:
            packing.backward = _pack(_by_output(ctx.module).T)
        return multiply_packed(gradients[0].contiguous(), packing.backward, None), None
