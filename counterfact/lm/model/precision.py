"""What factors of float32 products are rounded to: a choice of a run, in force within a block and then put back.

Both choices keep float32's range and sums: TF32, on CUDA devices, rounds factors to 10 bits; bf16, on processors with
units for it, to 7 bits, and results too. Faster, and numbers of their own: docs/precision.md says how far results move.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from counterfact.core.errors import BadInput
from counterfact.lm.forward.operators import bfloat16_units, rounded_linear

Precision = Literal["strict", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("strict", "tf32", "bf16")
AMPERE = 8
"""The first CUDA capability whose products can be TF32."""


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Let float32 products on CUDA devices be TF32 within the block, or be sure that no float32 product is rounded.

    What the process had chosen before, for CUDA devices and for processors, is back in force afterwards. Products of
    other dtypes are never touched. bf16 is no switch: `packed_products` multiplies so, and the rest stays as it is.
    """
    older, newer = _older_switch(), {switch: switch.fp32_precision for switch in _switches()}
    # The older switch sets the newer ones with it; the other way round leaves them in contradiction.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for switch, chosen in newer.items():
            switch.fp32_precision = chosen


def _switches() -> tuple[Any, Any]:
    """Torch's switches for products on CUDA devices and on processors."""
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.mkldnn.matmul


def _older_switch() -> str:
    """What the older switch, for all devices, stands at."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # a newer one contradicts it, and torch does not tell
        return "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"


def check_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise `BadInput` unless a device can multiply so, and the weights are of a dtype that asks the question."""
    if precision not in PRECISIONS:
        raise BadInput(f"expected a precision among {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "strict":
        return
    if dtype != torch.float32:
        raise BadInput(
            f"{precision} is a precision of float32 products, and these weights are "
            f"{str(dtype).removeprefix('torch.')}: leave --precision out, or choose --dtype float32"
        )
    (_check_tf32 if precision == "tf32" else check_bf16)(device)


def _check_tf32(device: torch.device) -> None:
    if device.type != "cuda":
        raise BadInput(f"tf32 products need a CUDA device, and the model is on {device.type}: leave --precision out")
    major, minor = torch.cuda.get_device_capability(device)
    if major < AMPERE:
        raise BadInput(
            f"tf32 products need a CUDA device of capability {AMPERE}.0 or more, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}: leave --precision out"
        )


def check_bf16(device: torch.device) -> None:
    """Raise `BadInput` unless a device can multiply in bf16."""
    if device.type != "cpu":
        instead = "choose --precision tf32 or --dtype bfloat16" if device.type == "cuda" else "leave --precision out"
        raise BadInput(f"bf16 products need a processor, and the model is on {device.type}: {instead}")
    if not bfloat16_units():
        raise BadInput(
            "bf16 products need a processor with units for them (AVX512-BF16 or AMX), and this one has none: "
            "leave --precision out"
        )
    if not (torch.backends.mkldnn.enabled and rounded_linear.works):
        raise BadInput(
            f"bf16 products need oneDNN, which torch {torch.__version__} lacks here or was told not to use: "
            "leave --precision out"
        )
