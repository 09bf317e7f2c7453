"""How fast a slice of a truthy dump is made, in CPU seconds by stage, and what that makes of the real dump.

`python -m speed.truthy_dump --megabytes 1000`: writes a synthetic dump, measures reading (plain, gzip, bzip2),
filtering, whole runs from each form, and the memory that a long run adds to a short one, and extrapolates. One object
of the dump has very many subjects, of which a sample is kept. CPU seconds, so that other work does not show.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from counterfact.builders.sources.dump_filter import LineFilter, entity_blocks, filter_block
from counterfact.builders.sources.pararel import Relation, load_pararel
from counterfact.builders.sources.truthy_dump import BLOCK, open_dump, write_dump_slice
from tests.support.made_up_world import crowded, small_world
from tests.support.truthy_dump import write_dump

CROWD = 10_000
"""Subjects of the object that has the most."""
REAL_MEGABYTES = 1_100_000
"""The real dump decompressed, in megabytes: some 8.5e9 lines of 130 bytes in 2026. An estimate; take your own."""


def rate(work: Callable[[], int]) -> float:
    """Return megabytes a CPU second of work that returns its bytes."""
    started = time.process_time()
    size = work()
    return size / 1e6 / (time.process_time() - started)


def read(dump: Path) -> int:
    """Read a dump in blocks; return its bytes."""
    with open_dump(dump) as stream:
        return sum(map(len, entity_blocks(stream, BLOCK)))


def make_slice(dump: Path, relations: Sequence[Relation]) -> int:
    """Make a slice of a dump; return the bytes read."""
    return write_dump_slice(dump, relations, dump.with_name("slice.nt.gz"), workers=1)["bytes"]


def filter_all(blocks: list[bytes], wanted: LineFilter) -> int:
    """Filter blocks; return their bytes."""
    return sum(filter_block(block, wanted).counts["bytes"] for block in blocks)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--cores", type=int, default=16, help="of the machine to extrapolate to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, world = Path(folder), crowded(small_world(), CROWD)
        relations = load_pararel(world.write(place / "world").pararel)
        small = min(arguments.megabytes, 100)
        rates = {}
        for suffix in (".nt", ".nt.gz", ".nt.bz2"):
            dump = place / f"small{suffix}"
            write_dump(dump, world, small)
            rates[f"read {suffix}"] = rate(partial(read, dump))
            rates[f"whole {suffix}, one process"] = rate(partial(make_slice, dump, relations))
        wanted = LineFilter(frozenset(one.id for one in relations), frozenset())
        with (place / "small.nt").open("rb") as stream:
            blocks = list(entity_blocks(stream, BLOCK))
        rates["filter, one process"] = rate(partial(filter_all, blocks, wanted))
        blocks.clear()
        write_dump(place / "dump.nt", world, arguments.megabytes)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates[f"whole, {arguments.megabytes} MB, one process"] = rate(partial(make_slice, place / "dump.nt", relations))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = {
        "megabytes": arguments.megabytes,
        "megabytes a CPU second": {name: round(value, 1) for name, value in rates.items()},
        "memory grown by, MB": round(grown / 1e3, 1),
        f"hours for {REAL_MEGABYTES:,} MB on {arguments.cores} cores": {
            suffix: round(REAL_MEGABYTES / bound(rates, suffix, arguments.cores) / 3600, 1)
            for suffix in (".gz", ".bz2")
        },
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def bound(rates: dict[str, float], suffix: str, cores: int) -> float:
    """Return the megabytes a second of the slower of the reader, one process, and the filters, all other cores."""
    return min(rates[f"read .nt{suffix}"], (cores - 1) * rates["filter, one process"])


if __name__ == "__main__":
    main()
