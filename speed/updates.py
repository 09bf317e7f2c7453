"""How much memory and time updates take between two dumps, by the number of facts, and what that makes of real ones.

`python -m speed.updates --facts 200000`: writes pairs of synthetic dumps of growing size, of whose facts one in a
hundred is replaced, and finds the updates in a process of its own each. Memory beside that of an empty comparison is
that of one part of each dump (`PARTS`) and of what the replaced facts need; both are printed for one fact.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from counterfact.builders.sources.queries import DIRECT, ENTITY, LABEL
from counterfact.builders.updates.finding import find_updates

REPLACED = 100
"""One of so many facts is replaced."""
OBJECTS = 5000


def write(path: Path, facts: int, *, later: bool) -> int:
    """Write a dump of so many facts; return its bytes."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(1, OBJECTS + facts):
            lines = f'<{ENTITY}Q{number}> <{LABEL}> "Thing {number:09}"@en .\n'
            if number >= OBJECTS:
                object = 1 + (number + (later and number % REPLACED == 0)) % (OBJECTS - 1)
                lines += f"<{ENTITY}Q{number}> <{DIRECT}P108> <{ENTITY}Q{object}> .\n"
            size += file.write(lines)
    return size


def measure(old: Path, new: Path, answers: "multiprocessing.Queue[tuple[int, float, float]]") -> None:
    """Find the updates; put their number, CPU seconds and peak memory in megabytes."""
    started = time.process_time()
    found = find_updates(old, new, ["P108"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.put((len(found.replaced), time.process_time() - started, peak))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--facts", type=int, default=200_000)
    context = multiprocessing.get_context("spawn")
    rows = []
    for facts in (1000, parser.parse_args().facts // 4, parser.parse_args().facts):
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder) / "old.nt", Path(folder) / "new.nt"
            size = write(old, facts, later=False) + write(new, facts, later=True)
            answers = context.Queue()
            process = context.Process(target=measure, args=(old, new, answers))
            process.start()
            replaced, seconds, peak = answers.get()
            process.join()
            rows.append(
                {
                    "facts": facts,
                    "megabytes": round(size / 1e6, 1),
                    "replaced": replaced,
                    "CPU seconds": round(seconds, 1),
                    "peak, MB": round(peak, 1),
                }
            )
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
