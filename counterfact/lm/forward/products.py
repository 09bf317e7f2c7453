"""How a model's products are multiplied: with weights packed for oneDNN, with the GELU that follows, or widened.

*Packed.* MKL runs narrower code on some processors than they have, most of all on products with few rows; oneDNN does
not, and takes its weights packed. A module's packed weights are kept for as long as the weights stay as they are. In
bf16 precision the weights of the blocks are packed in bfloat16, which processors with units for it multiply faster
still.

*Fused.* oneDNN applies the GELU of an MLP to the first product that it has just computed, still in the cache.

*Wide.* A product in bfloat16 is rounded to 8 bits, and where its sum is near a boundary, the rows beside it decide to
which side. A search of many steps makes of that another edit. In float32 an edit moves in its last digits alone, so a
model of bfloat16 weights can be run in float32, each weight widened while it is multiplied.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from counterfact.lm.forward.operators import multiply_packed, pack_weight, packed_linear
from counterfact.lm.model.hooks import find_module, shadowed
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import check_bf16, float32_products

ALGORITHMS: dict[type[nn.Module], str] = {GELUActivation: "none", GELUTanh: "tanh", NewGELUActivation: "tanh"}
"""Activations that can be fused, by the name of their approximation."""


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
                forward = partial(_multiply_packed, module, factor_dtype(lm, module))
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


def _multiply_packed(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    if module.weight.requires_grad:
        result: Tensor = type(module).forward(module, states)
        return result
    if torch.is_grad_enabled() and states.requires_grad:
        result = _PackedProduct.apply(states, module, dtype)  # type: ignore[no-untyped-call]
        return result
    return multiply_packed(states, packed_weight(module, dtype), _bias(module))


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()


class _PackedProduct(torch.autograd.Function):
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


@contextmanager
def fused_activations(lm: LM) -> Iterator[None]:
    """Within `packed_products`, which it enters, fuse the GELU of each MLP that is a projection, a GELU, a projection.

    For passes without gradients; fuses nothing where `packs_products` says no, or for other activations. An MLP in
    which something is hooked between product and GELU, as an edit of the first projection is, runs as it always does.
    """
    fusion = _Fusion(lm)
    with packed_products(lm), ExitStack() as stack:
        fuses = packs_products(lm) and not lm.layout.has_experts
        for layer in range(lm.n_layers) if fuses else ():
            fc_in, mlp = (find_module(lm.model, name(layer)) for name in (lm.layout.fc_in, lm.layout.mlp))
            children = list(mlp.children())
            activations = [child for child in children if type(child) in ALGORITHMS]
            projections = [child for child in children if isinstance(child, nn.Linear | Conv1D)]
            if len(activations) == 1 and len(projections) == 2 and projections[0] is fc_in:
                fusion.hide(stack, fc_in, activations[0])
        yield


class _Fusion:
    """Products that apply the GELU that follows, and GELUs that let pass what has had it."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm
        self.done = False
        """Whether the last product applied it."""
        self.hidden: set[nn.Module] = set()

    def hide(self, stack: ExitStack, fc_in: nn.Module, gelu: nn.Module) -> None:
        """Put both in the place of a projection's and a GELU's methods."""
        stack.enter_context(shadowed(fc_in, "forward", partial(self.product, fc_in, gelu, fc_in.forward)))
        # All layers may share one GELU.
        if gelu not in self.hidden:
            stack.enter_context(shadowed(gelu, "forward", partial(self.activation, gelu.forward)))
            self.hidden.add(gelu)

    def product(self, fc_in: Any, gelu: nn.Module, plain: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        self.done = not any((fc_in._forward_hooks, gelu._forward_pre_hooks, gelu._forward_hooks))
        if not self.done:
            return plain(states)
        bias, algorithm = None if fc_in.bias is None else fc_in.bias.detach(), ALGORITHMS[type(gelu)]
        return multiply_packed(states, packed_weight(fc_in, factor_dtype(self.lm, fc_in)), bias, algorithm)

    def activation(self, plain: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        done, self.done = self.done, False
        return states if done else plain(states)


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
        return partial(_multiply_wide, module, dtype)
    if isinstance(module, nn.LayerNorm):
        return partial(_normalise, module, dtype)
    if isinstance(module, nn.Embedding):
        own = module.forward
        return lambda *given, **named: own(*given, **named).to(dtype)
    return None


def _multiply_wide(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    result: Tensor = _WideProduct.apply(states.to(dtype), module)  # type: ignore[no-untyped-call]
    return result


def _normalise(module: Any, dtype: torch.dtype, states: Tensor) -> Tensor:
    weight, bias = (None if it is None else it.to(dtype) for it in (module.weight, module.bias))
    return layer_norm(states.to(dtype), module.normalized_shape, weight, bias, module.eps)


class _WideProduct(torch.autograd.Function):
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
