"""The folder that a build leaves: written beside its place, then moved there whole, so that no half of one is seen."""

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_json, write_json, write_jsonl
from counterfact.core.provenance import version_of

from .sources.client import ResponseCounts

BUILD_FILE = "build.json"
VERSION = "2"
"""Version of data sets that are built now, before what tells one from another."""
_PACKAGES = ("numpy", "pydantic", "pyoxigraph", "SPARQLWrapper")


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    path: Path
    """Folder of the data set."""
    meta: dict[str, Any]
    """Content of `build.json`."""
    stats: dict[str, Any]
    """Content of `stats.json`."""
    reused: bool
    """Whether the folder held this very build already."""
    responses: ResponseCounts | None = None
    """Where responses of servers came from; None where none was needed."""
    packed: int | None = None
    """Number of responses that were packed into a file of their own; None where none were."""

    @property
    def records(self) -> int:
        """Number of records."""
        return int(self.meta["counts"]["records"])


def finished_build(out: Path, fingerprint: str) -> BuildReport | None:
    """Return the report of a folder that holds this very build, or None.

    Raises:
        BadInput: the folder holds something that no build wrote.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / BUILD_FILE).is_file():
        raise BadInput(f"{out} holds files that no build wrote: choose another place, or remove it first")
    meta = read_json(out / BUILD_FILE)
    if not isinstance(meta, dict) or meta.get("environment", {}).get("fingerprint") != fingerprint:
        return None
    return BuildReport(out, meta, read_json(out / "stats.json"), reused=True)


def write_build(
    out: Path,
    fingerprint: str,
    files: Mapping[str, Any],
    meta: Mapping[str, Any],
    *,
    started: float,
    places: Mapping[str, str],
    base: str = VERSION,
) -> BuildReport:
    """Write all files of a build and put the folder in its place, where an older build may stand.

    Args:
        out: the place.
        fingerprint: hash of the build's sources, settings and code.
        files: name to content: `.jsonl` files take a list, `.json` files any value; `records.jsonl` and `stats.json`
            are among them.
        meta: the content of `build.json`, but for schema, content hash and environment; it is written last. A version
            that is None becomes the base with the start of the hash of records and reference texts after it, so that
            no two data sets that differ share name and version.
        started: when the build started, by `time.perf_counter`.
        places: source to its place on this machine.
        base: what a version by the content starts with.
    """
    work = out.parent / f".{out.name}.{fingerprint[:16]}.unfinished"
    fresh = work / "finished"
    for name, content in files.items():
        if name.endswith(".jsonl"):
            write_jsonl(fresh / name, content)
        else:
            write_json(fresh / name, content)
    environment = {
        "fingerprint": fingerprint,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 2),
        "places": dict(places),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in _PACKAGES},
    }
    # The content hash is the one that `contracts.datasets` finds when it reads the records.
    content_hash = hash_json(list(files["records.jsonl"]))
    # Where and when a text was fetched makes no other data set.
    samples = [entry.get("samples", ()) for entry in files.get("reference_texts.jsonl", ())]
    told = hash_json([content_hash, [[sample.get("text") for sample in each] for each in samples]])[:8]
    named = {**meta, "version": meta["version"] or f"{base}+{told}"}
    whole = {"schema": 1, **named, "content_hash": content_hash, "environment": environment}
    write_json(fresh / BUILD_FILE, whole)
    if out.exists():
        # A folder with content cannot be replaced in one step; a kill between these two leaves the new one to be
        # made again.
        old = work / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    fresh.rename(out)
    for left in work.parent.glob(f".{out.name}.*.unfinished"):
        shutil.rmtree(left, ignore_errors=True)
    return BuildReport(out, whole, files["stats.json"], reused=False)
