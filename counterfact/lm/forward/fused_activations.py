"""The MLP's first product and its GELU in one: oneDNN applies it to what it has just computed, still in the cache."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from counterfact.lm.forward.operators import multiply_packed
from counterfact.lm.forward.packed_products import factor_dtype, packed_products, packed_weight, packs_products
from counterfact.lm.model.hooks import find_module, shadowed
from counterfact.lm.model.loading import LM

ALGORITHMS: dict[type[nn.Module], str] = {GELUActivation: "none", GELUTanh: "tanh", NewGELUActivation: "tanh"}
"""Activations that can be fused, by the name of their approximation."""


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
