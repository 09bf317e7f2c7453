"""What a machine can do at most, and what computes its matrix products: the measures that times are held against."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from counterfact.lm.forward.operators import multiply_packed, pack_weight, packed_linear, rounded_linear
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import Precision, float32_products
from counterfact.lm.model.sites import weight_shape

PROBE = "import torch; a, b = torch.rand(64, 96), torch.rand(96, 128); torch.addmm(torch.rand(128), a, b)"


@dataclass(frozen=True)
class Ceiling:
    """Measured limits."""

    gflops: float
    """Products of 640 x H by H x 4H, float32, 1e9 operations a second."""
    gigabytes: float
    """Reading memory, 1e9 bytes a second."""


def describe(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge a time."""
    return {
        "device": device_name(device),
        "product_library": product_library(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@cache
def product_library(device: torch.device) -> str:
    """Find out which library computes `addmm` in float32, by running one with oneDNN's log switched on."""
    if device.type != "cpu":
        return f"cuBLAS (CUDA {torch.version.cuda})"
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    log = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    if re.search(r"onednn_verbose.*(matmul|inner_product)", log.stdout):
        return "oneDNN"
    found = re.search(r"(Intel\(R\) oneAPI Math Kernel Library Version \S+|OpenBLAS\S*)", torch.__config__.show())
    return found.group(1).replace("Intel(R) oneAPI Math Kernel Library Version", "MKL") if found else "unknown BLAS"


def measure_ceiling(width: int, device: torch.device) -> Ceiling:
    """Measure, in this process, with its threads: the best of some repetitions."""
    a, b, bias = (torch.rand(shape, device=device) for shape in ((640, width), (width, 4 * width), (4 * width,)))
    big = torch.rand(2**26, device=device)
    product = _best(lambda: torch.addmm(bias, a, b), device, 50)
    read = _best(big.sum, device, 10)
    return Ceiling(2 * a.numel() * 4 * width / product / 1e9, big.numel() * 4 / read / 1e9)


def packed_ceiling(
    width: int,
    rows: int = 1024,
    clock: Callable[[], float] = time.perf_counter,
    *,
    inner: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return what packed oneDNN products of rows x H by H x inner reach on this processor, in GFLOP/s.

    Args:
        width: H.
        rows: rows.
        clock: of the runs that are held against it, or a busy machine lowers the ceiling and not the runs.
        inner: 4 H by default.
        dtype: what float32 factors are rounded to; rounding them, and giving back float32, is part of the time.
    """
    layer, states = torch.nn.Linear(width, inner or 4 * width), torch.rand(rows, width)
    packed, bias = pack_weight(layer.weight.detach().to(dtype)), layer.bias.detach()
    best = _best(lambda: multiply_packed(states, packed, bias), torch.device("cpu"), 50, clock)
    return 2 * rows * layer.weight.numel() / best / 1e9


def product_ceiling(width: int, inner: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return what torch's own products reach, in GFLOP/s: 1024 x H by H x inner, on an accelerator 16,384 x H."""
    rows = 1024 if device.type == "cpu" else 16384
    shapes = ((rows, width), (width, inner), (inner,))
    a, b, bias = (torch.rand(shape, device=device, dtype=dtype) for shape in shapes)
    return 2 * rows * width * inner / _best(lambda: torch.addmm(bias, a, b), device, 50) / 1e9


def product_ceilings(lm: LM) -> dict[str, float]:
    """Return the ceilings of the products that a side may use here, at the shape of the MLP, in GFLOP/s by name."""
    width, (inner, _), device = lm.width, weight_shape(lm.model, lm.layout.fc_out(0)), lm.device
    kinds: tuple[tuple[str, Precision, torch.dtype], ...] = (
        ("float32", "strict", torch.float32),
        ("TF32", "tf32", torch.float32),
        ("bfloat16", "strict", torch.bfloat16),
    )
    found = {}
    for name, precision, dtype in kinds:
        if device.type != "cpu" or precision == "strict":
            with float32_products(precision):
                found[name] = product_ceiling(width, inner, device, dtype)
    if device.type == "cpu" and packed_linear.works:
        found["packed"] = packed_ceiling(width, inner=inner)
        if rounded_linear.works:
            found["packed, bf16"] = packed_ceiling(width, inner=inner, dtype=torch.bfloat16)
    return found


def forget_peak(device: torch.device) -> None:
    """Let the next `peak_memory` count from now on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Return the most memory in use since `forget_peak`, 1e9 bytes: an accelerator's, or resident on a processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return _status("VmHWM")


def resident_memory() -> float:
    """Return the resident memory of this process, 1e9 bytes; 0 where the system does not tell."""
    return _status("VmRSS")


def _status(name: str) -> float:
    path = Path("/proc/self/status")
    found = re.search(rf"{name}:\s*(\d+) kB", path.read_text()) if path.exists() else None
    return int(found.group(1)) * 1024 / 1e9 if found else 0.0


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _best(run: Any, device: torch.device, times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    best = float("inf")
    for _ in range(times):
        synchronize(device)
        start = clock()
        run()
        synchronize(device)
        best = min(best, clock() - start)
    return best
