"""How time and memory of a build grow with the facts: the real ParaRel, and a share of the real facts.

`REAL_DATA=... python -m speed.building` builds from 25, 50 and 100 % of the facts, each in its own process, and
prints records, CPU seconds, wall seconds and peak memory. A share of the facts is that of the entities whose hash is
small enough, so that each keeps all its facts.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.opened import Sources
from counterfact.core.places import data_folder


def write_share(facts: Path, share: float, out: Path) -> int:
    """Write the facts of a share of the subjects; return how many they are."""
    with gzip.open(facts, "rt", encoding="utf-8") as lines, out.open("w", encoding="utf-8") as file:
        file.write(next(lines))
        kept = [line for line in lines if _hash(line.split("\t", 1)[0]) < share]
        file.writelines(kept)
    return len(kept)


def measure(pararel: Path, facts: Path, templates: Path | None, out: Path) -> dict[str, float]:
    """Build in this process; return what it took."""
    began = time.perf_counter()
    sources = Sources(
        pararel, StoreSource.open(facts), data_folder() / "prompts" / "generation", None, templates=templates
    )
    report = build_from_sources(sources, BuildSettings(name="counterfact-real", paraphrase_context="none"), out)
    return {
        "records": report.records,
        "CPU seconds": round(time.process_time(), 1),
        "seconds": round(time.perf_counter() - began, 1),
        "GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--templates", type=Path, help="to top up with, such as data/pararel")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    real = Path(os.environ["REAL_DATA"])
    if arguments.one:
        found = measure(real / "pararel", arguments.one[0], arguments.templates, arguments.one[1])
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for share in arguments.shares:
        with tempfile.TemporaryDirectory() as folder:
            facts = Path(folder) / "facts.tsv"
            count = write_share(real / "wikidata" / "facts.tsv.gz", share, facts)
            given = [sys.executable, "-m", "speed.building", "--one", str(facts), str(Path(folder) / "out")]
            given += ["--templates", str(arguments.templates)] if arguments.templates else []
            done = subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True)
        sys.stdout.write(json.dumps({"facts": count, **json.loads(done.stdout)}) + "\n")
        sys.stdout.flush()


def _hash(entity: str) -> float:
    return int.from_bytes(sha256(entity.encode()).digest()[:8]) / 2**64


if __name__ == "__main__":
    main()
