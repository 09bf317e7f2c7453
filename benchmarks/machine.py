"""What a machine can do at most, and what computes its matrix products: the measures that times are held against."""

import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
        "date": time.strftime("%Y-%m-%d"),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


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


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _best(run: Any, device: torch.device, times: int) -> float:
    best = float("inf")
    for _ in range(times):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
