"""What may differ between two equal runs: machine, versions, dates, times, memory."""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from counterfact.core.provenance import version_of
from counterfact.evaluation.folder import Computed
from counterfact.evaluation.task import Prepared
from counterfact.lm.planning.batch_plan import Split

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "nltk")


def machine(device: torch.device) -> dict[str, Any]:
    """Return versions, device and threads of this process."""
    return {
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "system": platform.platform(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
    }


@dataclass
class Account:
    """What is noted while units come in."""

    splits: list[Split] = field(default_factory=list)
    peak_memory: dict[str, int | None] = field(default_factory=lambda: {"host": None, "accelerator": None})
    """The most that one worker held, in bytes."""

    def watch(self, units: Iterable[Computed]) -> Iterator[Computed]:
        """Pass units on, and note what they cost."""
        for unit in units:
            self.splits += unit.splits
            self.note(unit.peak_memory)
            yield unit

    def note(self, peak: Mapping[str, int | None]) -> None:
        """Note the memory that a worker held."""
        for name, value in peak.items():
            if value is not None:
                self.peak_memory[name] = max(value, self.peak_memory.get(name) or 0)


def describe(prepared: Prepared, account: Account, dataset_path: str, started: datetime) -> dict[str, Any]:
    """Return the environment of a run that ends now."""
    return {
        **prepared.machine,
        "plan": asdict(prepared.plan) | {"splits": [list(split) for split in account.splits]},
        "plan_needs_bytes": prepared.needs_bytes,
        "dataset_path": dataset_path,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory_bytes": account.peak_memory,
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
