"""Measures how cost and memory of the main job grow: with records, with how many are computed together, with depth.

    python -m speed.growth --of records
    python -m speed.growth --of chunk --of depth

Each point is a process of its own, since memory once taken is not always given back. Weights are random, of factlm's
width. Memory is the most that was resident during the job beyond what was before it (on an accelerator: allocated).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterfact.core.files import write_json
from counterfact.lm.model.loading import default_device
from counterfact.lm.planning.batch_plan import Plan, default_plan
from speed.jobs import STAGES, Times, many_at_once
from speed.machine import describe, device_name, resident_memory
from speed.main_job import RESULTS, command_of, rounded, slug
from speed.setting import Wanted, prepare
from speed.shapes import SHAPES

UNLIMITED = 2**20
POINTS: dict[str, tuple[int, ...]] = {
    "records": (32, 64, 128, 256),
    "chunk": (1, 4, 16, 32, 64),
    "depth": (3, 6, 12, 24),
}
CHUNK_RECORDS, DEPTH_RECORDS = 64, 32
"""Records of each point of the two sweeps that do not vary their number."""


def measure_point(of: str, value: int, dataset: str | None, length: int, device: str | None) -> dict[str, Any]:
    """Do the job at one point, in this process; return seconds a record by stage, and memory."""
    shape = SHAPES["factlm-like"]
    records = {"records": value, "chunk": CHUNK_RECORDS, "depth": DEPTH_RECORDS}[of]
    if of == "depth":
        shape = replace(shape, layers=value)
    setting = prepare(Wanted(shape=shape, dataset=dataset, chunk=records, device=device))
    lm, size = setting.lm, value if of == "chunk" else records
    # A chunk is to be one batch; else the plan decides.
    plan = default_plan(lm) if of != "chunk" else Plan(UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)
    many_at_once(setting, setting.records[: min(2, size)], length, Times(lm.device), plan=plan)
    before = resident_memory() if lm.device.type == "cpu" else 0.0
    times, pieces = Times(lm.device), range(0, records, size)
    for start in pieces:
        many_at_once(setting, setting.records[start : start + size], length, times, plan=plan)
    peak = max(times.peak.values())
    seconds = {stage: times.mean(stage) for stage in STAGES}
    return {
        of: value,
        "records": records,
        "seconds": seconds | {"total": sum(seconds.values())},
        "peak_gigabytes": peak,
        "before_gigabytes": before,
        "added_gigabytes": peak - before,
    }


def fit(points: Sequence[dict[str, Any]], of: str) -> dict[str, float]:
    """Lay a straight line through seconds in all against the number of records, or a record against depth."""
    x = np.array([point[of] for point in points], dtype=float)
    y = np.array([point["seconds"]["total"] * (point["records"] if of == "records" else 1) for point in points])
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.abs(y - (slope * x + intercept)) / y
    return {"slope": float(slope), "intercept": float(intercept), "residual_relative_largest": float(residual.max())}


def sweep(of: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all points, each in a process of its own."""
    found = []
    for value in POINTS[of]:
        point = [f"--point={of}={value}", f"--length={arguments.length}"]
        point += [f"--{name}={given}" for name in ("dataset", "device") if (given := getattr(arguments, name))]
        done = subprocess.run(
            [sys.executable, "-m", "speed.growth", *point], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        show(of, found[-1])
    return found


def show(of: str, point: dict[str, Any]) -> None:
    """Print one point."""
    seconds = "  ".join(f"{stage} {value:.4f}" for stage, value in point["seconds"].items())
    print(f"{of} {point[of]:>4}: seconds a record {seconds}; memory +{point['added_gigabytes']:.2f} GB", flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = sys.argv[1:] if given is None else given
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", action="append", choices=POINTS, help="what grows; by default all three")
    parser.add_argument("--dataset", help="a built folder or counterfact.json; by default made of the embedded world")
    parser.add_argument("--length", type=int, default=100, help="tokens of a generated text")
    parser.add_argument("--device", help="cpu, cuda ...; by default an accelerator if there is one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.point:
        of, value = arguments.point.split("=")
        print(json.dumps(measure_point(of, int(value), arguments.dataset, arguments.length, arguments.device)))
        return
    for of in arguments.of or POINTS:
        points = sweep(of, arguments)
        line = None if of == "chunk" else fit(points, of)
        result = {
            "what": f"the main job by {of}; seconds a record, memory in 1e9 bytes",
            "command": command_of("growth", given),
            "machine": describe(_device(arguments.device)),
            "of": of,
            "points": points,
            "line": line,
        }
        if line is not None:
            print(f"{of}: no point is farther from a straight line than {line['residual_relative_largest']:.1%} of it")
        path = arguments.out / f"growth-{of}-{slug(device_name(_device(arguments.device)))}.json"
        write_json(path, json.loads(json.dumps(rounded(result))))
        print(f"written to {path}")


def _device(name: str | None) -> torch.device:
    return torch.device(name) if name else default_device()


if __name__ == "__main__":
    main()
