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

    Holds a second copy of the weights meanwhile. Does nothing but on a processor, in single precision, where torch was
    built with oneDNN. Hooks act as before.
    """
    if lm.device.type != "cpu" or lm.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield
        return
    with ExitStack() as stack:
        for module in lm.model.modules():
            if isinstance(module, nn.Linear | Conv1D):
                # An attribute of the instance hides the class's method, and is taken away again.
                vars(module)["forward"] = _packed(module)
                stack.callback(vars(module).pop, "forward")
        yield


def _packed(module: Any) -> Any:
    weight = module.weight.detach()
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    bias = module.bias.detach() if module.bias is not None else None

    def forward(states: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
        return result

    return forward
