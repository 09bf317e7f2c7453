"""How long one evaluation takes with each runner on one machine, and whether it gives the same bytes.

    python -m speed.runners
    python -m speed.runners --workers 8 --records 64 2560

Each side is `counterfact evaluate` with ROME on the embedded data set, a process of its own, timed from its command to
its end. Two numbers of records tell what starting costs from what a record costs. Second moment and context templates
are in the cache before; the unedited model is measured by each run anew.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from counterfact.core.files import write_json
from counterfact.core.places import cache_folder
from speed.machine import describe, device_name
from speed.main_job import RESULTS, command_of, slug
from speed.setting import open_records

COMMAND = (sys.executable, "-c", "from cli.main import main; main()", "evaluate", "--editor", "rome", "--device", "cpu")


def sides(workers: int) -> dict[str, list[str]]:
    """Return what is compared, by name: the arguments that choose it."""
    return {
        "local, 1 thread": ["--threads", "1"],
        f"local, {workers} threads": ["--threads", str(workers)],
        f"ray, {workers} workers of 1 thread": ["--runner", "ray", "--workers", str(workers), "--threads", "1"],
    }


def run(arguments: Sequence[str], records: int, model: str, out: Path) -> float:
    """Evaluate; return seconds."""
    dataset = str(cache_folder() / "bench" / "counterfact")
    command = [*COMMAND, "--dataset", dataset, "--model", model, "--limit", str(records), "--out", str(out), *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def written(out: Path) -> list[bytes]:
    """Return what must be the same bytes whoever computes: the records' lines, edited and unedited."""
    return [path.read_bytes() for name in ("cases.jsonl", "pre.jsonl") for path in sorted(out.rglob(name))]


def measure(workers: int, counts: Sequence[int], model: str) -> list[dict[str, Any]]:
    """Run every side with every number of records, in turns."""
    chosen, seconds = sides(workers), dict[tuple[str, int], float]()
    kept: dict[str, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run(["--threads", "1"], 1, model, Path(folder, "warm"))
        for records in counts:
            for place, (name, arguments) in enumerate(chosen.items()):
                out = Path(folder, f"{place}-{records}")
                seconds[name, records] = run(arguments, records, model, out)
                kept[name] = written(out)
                print(f"{name}, {records} records: {seconds[name, records]:.1f} s", flush=True)
    few, many = min(counts), max(counts)
    first = next(iter(chosen))
    rows = []
    for name in chosen:
        each = (seconds[name, many] - seconds[name, few]) / (many - few)
        rows.append(
            {
                "side": name,
                "seconds": {str(records): seconds[name, records] for records in counts},
                "seconds_a_record": each,
                "seconds_to_start": seconds[name, few] - each * few,
                "times_as_fast": seconds[first, many] / seconds[name, many],
                "same_bytes_as_one_thread": kept[name] == kept[first],
            }
        )
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of Ray, and threads of one process")
    parser.add_argument("--records", type=int, nargs=2, default=[64, 640], help="two numbers of records")
    parser.add_argument("--model", default="factlm", help="folder, Hub id or embedded name")
    parser.add_argument("--out", type=Path, help="the file to write; by default in speed/results")
    chosen = parser.parse_args()
    open_records(None)
    device = torch.device("cpu")
    rows = measure(chosen.workers, chosen.records, chosen.model)
    for row in rows:
        print(
            f"{row['side']:<28} {row['seconds_to_start']:6.1f} s to start, {row['seconds_a_record']:.3f} s a record, "
            f"{row['times_as_fast']:.2f}x, same bytes: {row['same_bytes_as_one_thread']}"
        )
    result = {
        "what": "an evaluation by runner",
        "machine": describe(device),
        "model": chosen.model,
        "rows": rows,
        "made_by": command_of("runners", sys.argv[1:]),
    }
    write_json(chosen.out or RESULTS / f"runners-{chosen.model}-{slug(device_name(device))}.json", result)


if __name__ == "__main__":
    main()
