"""Matrix products by oneDNN with packed weights: on many processors faster than the library torch takes by itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lm.loading import LM


@contextmanager
def packed_products(lm: LM) -> Iterator[None]:
    """Let every projection of the model use packed weights within the block; no gradient flows through them.

    Holds a second copy of the weights meanwhile; does nothing where `packs_products` says no. Hooks act as before.
    """
    if not packs_products(lm):
        yield
        return
    with ExitStack() as stack:
        for module in lm.model.modules():
            if isinstance(module, nn.Linear | Conv1D):
                # An attribute of the instance hides the class's method, and is taken away again.
                vars(module)["forward"] = _packed(module)
                stack.callback(vars(module).pop, "forward")
        yield


def packs_products(lm: LM) -> bool:
    """Return whether a model's products can be packed: on a processor, in single precision, oneDNN not switched off."""
    mkldnn: Any = torch.backends.mkldnn
    return lm.device.type == "cpu" and lm.dtype == torch.float32 and mkldnn.is_available() and bool(mkldnn.enabled)


def _packed(module: Any) -> Any:
    weight = module.weight.detach()
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    bias = module.bias.detach() if module.bias is not None else None

    def forward(states: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
        return result

    return forward
