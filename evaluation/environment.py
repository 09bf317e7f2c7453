"""What may differ between two equal runs: machine, versions, dates, times, memory."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from lm.loading import LM
from lm.memory import needs
from lm.plan import Plan, Shape

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "nltk")


def describe(lm: LM, plan: Plan, dataset_path: str, started: datetime, length: int) -> dict[str, Any]:
    """Return the environment of a run that ends now; `length` is that of its texts, in tokens."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "device": _device_name(lm.device),
        "threads": torch.get_num_threads(),
        "plan": asdict(plan),
        "plan_needs_bytes": round(needs(Shape.of(lm), plan, length).total),
        "dataset_path": dataset_path,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory_bytes": peak_memory(lm.device),
    }


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Return the most memory that this process has held, of the machine and of the accelerator, in bytes."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # not on Windows
        host = None
    else:
        # Kilobytes on Linux, bytes on macOS.
        scale = 1 if platform.system() == "Darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    accelerator = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"host": host, "accelerator": accelerator}


def seconds_by_stage(times: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum the lines of `timings.jsonl`, in seconds.

    >>> seconds_by_stage([{"case_id": 0, "edit": 1.0}, {"case_id": 1, "edit": 2.5, "score": 1.0}])
    {'edit': 3.5, 'score': 1.0}
    """
    total: dict[str, float] = {}
    for time in times:
        for stage, seconds in time.items():
            if stage != "case_id":
                total[stage] = round(total.get(stage, 0.0) + seconds, 6)
    return total


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
