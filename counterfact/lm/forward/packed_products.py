"""Matrix products by oneDNN with packed weights: on many processors faster than the library torch takes by itself.

MKL runs narrower code on some processors than they have, most of all on products with few rows; oneDNN does not, and
takes its weights packed. A module's packed weights are kept for as long as the weights stay as they are. In bf16
precision the weights of the blocks are packed in bfloat16, which processors with units for it multiply faster still.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from counterfact.lm.forward.operators import multiply_packed, pack_weight, packed_linear
from counterfact.lm.model.hooks import shadowed
from counterfact.lm.model.loading import LM
from counterfact.lm.model.precision import check_bf16, float32_products


@contextmanager
def packed_products(lm: LM) -> Iterator[None]:
    """Multiply in the model's precision within the block, where that is possible by packed weights.

    Gradients of projections reach inputs, never weights. A second copy of the weights is kept from the first use on,
    a third where gradients are requested. Packs nothing where `packs_products` says no, or within another such block.
    Hooks act as before, and the weights must not be changed within the block. A projection whose weight requires a
    gradient multiplies as it would by itself.

    In bf16 precision the projections of the blocks round their factors and their results to bfloat16. The output layer
    does not: logits so rounded would tie. Nor does what else stands in a block, attention's own products included.

    Raises:
        BadInput: the precision is bf16, and this processor or this torch cannot multiply so.
    """
    if lm.precision == "bf16":
        check_bf16(lm.device)
    with ExitStack() as stack:
        stack.enter_context(float32_products(lm.precision))
        for module in lm.model.modules() if packs_products(lm) else ():
            if isinstance(module, nn.Linear | Conv1D) and "forward" not in vars(module):
                forward = partial(_forward, module, factor_dtype(lm, module))
                stack.enter_context(shadowed(module, "forward", forward))
        yield


def packs_products(lm: LM) -> bool:
    """Return whether a model's products can be packed: on a processor, in single precision, oneDNN not switched off."""
    mkldnn: Any = torch.backends.mkldnn
    can = lm.device.type == "cpu" and lm.dtype == torch.float32 and mkldnn.is_available() and bool(mkldnn.enabled)
    return can and packed_linear.works


def factor_dtype(lm: LM, module: nn.Module) -> torch.dtype:
    """Return what a projection's factors are rounded to where products are packed."""
    rounded = lm.precision == "bf16" and module is not lm.model.get_output_embeddings()
    return torch.bfloat16 if rounded else torch.float32


@dataclass
class _Packed:
    """The packed weights of a module, made when they are first needed."""

    state: tuple[int, int, torch.dtype]
    """Address of the weight that was packed, how often it had been written to, and what it was rounded to."""
    forward: Tensor
    backward: Tensor | None = None


_packed: WeakKeyDictionary[nn.Module, _Packed] = WeakKeyDictionary()


def _packing_of(module: Any, dtype: torch.dtype) -> _Packed:
    weight = module.weight
    state = (weight.data_ptr(), weight._version, dtype)
    found = _packed.get(module)
    if found is None or found.state != state:
        found = _packed[module] = _Packed(state, _pack(_by_output(module).to(dtype)))
    return found


def packed_weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return a projection's weight, rounded to a dtype, as oneDNN wants it, made when it is first asked for."""
    return _packing_of(module, dtype).forward


def _by_output(module: Any) -> Tensor:
    """The weight as (d_out, d_in)."""
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _pack(weight: Tensor) -> Tensor:
    # Made outside of inference mode even where a block of it is open, so that autograd may keep it.
    with torch.inference_mode(False):
        return pack_weight(weight)


def _forward(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    if module.weight.requires_grad:
        result: Tensor = type(module).forward(module, states)
        return result
    if torch.is_grad_enabled() and states.requires_grad:
        result = _Product.apply(states, module, dtype)  # type: ignore[no-untyped-call]
        return result
    return multiply_packed(states, packed_weight(module, dtype), _bias(module))


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()


class _Product(torch.autograd.Function):
    """A product whose gradient is requested at its input only."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, module: Any, dtype: torch.dtype) -> Tensor:
        ctx.module, ctx.dtype = module, dtype
        return multiply_packed(states, packed_weight(module, dtype), _bias(module))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        packing = _packing_of(ctx.module, ctx.dtype)
        if packing.backward is None:
            packing.backward = _pack(_by_output(ctx.module).T.to(ctx.dtype))
        return multiply_packed(gradients[0].contiguous(), packing.backward, None), None, None
