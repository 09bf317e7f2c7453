"""Put a function of ours in the place of a model's attention, in any family: between its projections, which stay."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformers import AttentionInterface

from counterfact.lm.model.hooks import find_module, shadowed
from counterfact.lm.model.loading import LM

Attend = Callable[[Any, Tensor, Tensor, Tensor, float], Tensor]
"""The attention module, queries (rows, heads, tokens, head width), keys and values (of fewer heads, perhaps, each for
several of the queries'), and the scaling of scores -> (rows, tokens, heads, head width)."""
KERNEL = "attend_by"
"""The name under which the `transformers` library knows it."""


@contextmanager
def attend_by(lm: LM, attend: Attend) -> Iterator[None]:
    """Let all attentions of the model be computed by `attend` within the block."""
    method = lm.layout.attention_method
    with ExitStack() as stack:
        for layer in range(lm.n_layers):
            module = find_module(lm.model, lm.layout.attention(layer))
            own = attend if method is None else partial(_by_method, module, attend)
            stack.enter_context(shadowed(module, method or KERNEL, own))
        if method is None:
            lm.model.set_attn_implementation(KERNEL)
            stack.callback(lm.model.set_attn_implementation, lm.layout.attention_kernel)
        yield


def _by_method(module: Any, attend: Attend, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, None]:
    """As families call it that have a method of their own instead of the library's interface."""
    return attend(module, query, key, value, 1 / float(module.scale_attn)).transpose(1, 2), None


def _by_interface(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """As the library's interface calls it."""
    attend: Attend = vars(module)[KERNEL]
    return attend(module, query, key, value, scaling), None


AttentionInterface.register(KERNEL, _by_interface)
