"""Private operators of torch that are faster than public ones, in one place, each with a public counterpart.

A private operator may vanish or change with any release. It is therefore used only after it gave, on a small example,
what its public counterpart gives; where it does not, the public one takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Operator:
    """A private operator and the public functions that say what it computes."""

    private: Callable[..., tuple[Tensor, ...]]
    public: Callable[..., tuple[Tensor, ...]]
    example: Callable[[], tuple[Any, ...]]
    """Arguments, on the CPU."""
    only_cpu: bool = True

    @cached_property
    def works(self) -> bool:
        """Whether this torch has the private operator, and it gives on the example what the public functions give."""
        try:
            pairs = zip(self.private(*self.example()), self.public(*self.example()), strict=True)
            return all(torch.allclose(found, expected, atol=1e-5) for found, expected in pairs)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False

    def __call__(self, tensor: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """Compute, by the private operator where it works and runs on the tensor's device."""
        on_its_device = tensor.device.type == "cpu" or not self.only_cpu
        return (self.private if on_its_device and self.works else self.public)(tensor, *args)


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    # It takes the numbers of a head to lie side by side, and says nothing where they do not.
    query, key, value = (it if it.stride(-1) == 1 else it.contiguous() for it in (query, key, value))
    found, total = kernel(query, key, value, is_causal=causal, scale=scale)
    return found, total


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(scale)
    if causal:
        seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return torch.matmul(scores.softmax(-1).to(value.dtype), value), scores.logsumexp(-1)


def _softmax_backward(gradient: Tensor, weights: Tensor) -> tuple[Tensor]:
    found: Tensor = torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
    return (found,)


def _plain_softmax_backward(gradient: Tensor, weights: Tensor) -> tuple[Tensor]:
    return (weights * (gradient - (gradient * weights).sum(-1, keepdim=True)),)


def _packed_linear(states: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None) -> tuple[Tensor]:
    return (multiply_packed(states, pack_weight(weight), bias, gelu),)


def _plain_linear(states: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None) -> tuple[Tensor]:
    product = F.linear(states, weight, bias)
    return (product if gelu is None else F.gelu(product, approximate=gelu),)


def _rounded_linear(states: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None) -> tuple[Tensor]:
    return _packed_linear(states, weight.bfloat16(), bias, gelu)


def _plain_rounded_linear(states: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None) -> tuple[Tensor]:
    (exact,) = _plain_linear(states.bfloat16().float(), weight.bfloat16().float(), bias, gelu)
    return (exact.bfloat16().float(),)


def _drawn(*shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.linspace(-1, 1, count, dtype=torch.float32, device="cpu").square().view(shape)


attention_and_sums = Operator(
    _flash_attention, _plain_attention, lambda: (_drawn(1, 2, 3, 8), _drawn(1, 2, 3, 8), _drawn(1, 2, 3, 8), True, 0.5)
)
"""Attention without gradients, and the sums of its exponentials.

Queries (rows, heads, queries, head width), keys and values (rows, heads, tokens, head width), whether causal, scale of
the scores -> the result, shaped as the queries, and the logarithm of each softmax's denominator, (rows, heads,
queries)."""
softmax_backward = Operator(
    _softmax_backward, _plain_softmax_backward, lambda: (_drawn(2, 3), _drawn(2, 3).softmax(-1)), only_cpu=False
)
"""Gradient by softmax weights (..., n) and these weights -> the gradient by the scores, (..., n)."""
packed_linear = Operator(_packed_linear, _plain_linear, lambda: (_drawn(3, 8), _drawn(4, 8), _drawn(4), "tanh"))
"""A linear map, packed; `pack_weight` and `multiply_packed` are its two halves.

States (..., d_in), weight (d_out, d_in), bias, approximation of a GELU that follows or `None` -> (..., d_out)."""

rounded_linear = Operator(_rounded_linear, _plain_rounded_linear, packed_linear.example)
"""`packed_linear` with factors and result rounded to bfloat16, and sums, bias and GELU in float32."""


def bfloat16_units() -> bool:
    """Return whether the processor has units that multiply bfloat16, as AVX512-BF16 and AMX are."""
    return any(bool(has) for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def pack_weight(weight: Tensor) -> Tensor:
    """Return a weight (d_out, d_in) in float32 or bfloat16 as oneDNN wants it; only where `packed_linear` works."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def multiply_packed(states: Tensor, packed: Tensor, bias: Tensor | None, gelu: str | None = None) -> Tensor:
    """Multiply states (..., d_in) by a packed weight, add the bias, and apply a GELU where one is named.

    Factors and result are rounded to the dtype of the weight, sums are in float32, and what is returned has the dtype
    of the states.
    """
    factors = states.to(packed.dtype)
    activation = ("none", "") if gelu is None else ("gelu", gelu)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(factors, packed, bias, activation[0], [], activation[1])
    return result.to(states.dtype)
