"""What float32 products are rounded to on a CUDA device: a choice of a run, in force within a block and then put back.

TF32 keeps float32's range and sums, and rounds what is multiplied to 10 bits: several times faster, and a number of
its own. See docs/precision.md for how far results move.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from counterfact.core.errors import BadInput

Precision = Literal["strict", "tf32"]
PRECISIONS: tuple[Precision, ...] = ("strict", "tf32")
AMPERE = 8
"""The first CUDA capability whose products can be TF32."""


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Let float32 products on CUDA devices be TF32 within the block, or be sure that they are not.

    What the process had chosen before is back in force afterwards. Elsewhere products are in float32 always, and
    products of other dtypes are never touched.
    """
    matmul: Any = torch.backends.cuda.matmul
    named = hasattr(matmul, "fp32_precision")  # from torch 2.9 on
    before = matmul.fp32_precision if named else matmul.allow_tf32
    # The older switch sets the newer one with it; the other way round leaves them in contradiction.
    matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32 = before in {"tf32", True}
        if named:
            matmul.fp32_precision = before


def check_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise `BadInput` unless a device can multiply so, and the weights are of a dtype that asks the question."""
    if precision not in PRECISIONS:
        raise BadInput(f"expected a precision among {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "strict":
        return
    if dtype != torch.float32:
        raise BadInput(
            f"tf32 is a precision of float32 products, and these weights are {str(dtype).removeprefix('torch.')}: "
            "leave --precision out, or choose --dtype float32"
        )
    if device.type != "cuda":
        raise BadInput(f"tf32 products need a CUDA device, and the model is on {device.type}: leave --precision out")
    major, minor = torch.cuda.get_device_capability(device)
    if major < AMPERE:
        raise BadInput(
            f"tf32 products need a CUDA device of capability {AMPERE}.0 or more, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}: leave --precision out"
        )
