"""The folder a build leaves: written beside its place, then put there whole, so that no half of one is ever seen."""

import platform
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_json, write_json, write_jsonl

BUILD_FILE = "build.json"
_PACKAGES = ("numpy", "pydantic", "pyoxigraph", "SPARQLWrapper")


def work_folder(out: Path, fingerprint: str) -> Path:
    """Return where the unfinished parts of a build lie; another build has another."""
    return out.parent / f".{out.name}.{fingerprint[:16]}.unfinished"


def finished_build(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the `build.json` of a folder that holds just this build, or None.

    Raises:
        BadInput: the folder holds something that no build wrote.
    """
    if not out.exists():
        return None
    if out.is_dir() and not any(out.iterdir()):
        return None
    if not (out / BUILD_FILE).is_file():
        raise BadInput(f"{out} holds files that no build wrote: choose another place, or remove it first")
    meta = read_json(out / BUILD_FILE)
    same = isinstance(meta, dict) and meta.get("environment", {}).get("fingerprint") == fingerprint
    return meta if same else None


def write_build(
    out: Path,
    work: Path,
    files: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Write all files of a build and put the folder in its place, where an older build may stand.

    Args:
        out: the place.
        work: the build's work folder, removed at the end, as are those of unfinished builds of the same place.
        files: name to content: `.jsonl` files take a list, `.json` files any value.
        meta: the content of `build.json`, written last.
    """
    fresh = work / "finished"
    for name, content in files.items():
        if name.endswith(".jsonl"):
            write_jsonl(fresh / name, content)
        else:
            write_json(fresh / name, content)
    write_json(fresh / BUILD_FILE, meta)
    if out.exists():
        # A folder with content cannot be replaced in one step; a kill between these two leaves the new one to be
        # made again from the work folder.
        old = work / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    fresh.rename(out)
    for left in work.parent.glob(f".{out.name}.*.unfinished"):
        shutil.rmtree(left, ignore_errors=True)


def content_hash(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of all records, the one that `core.datasets` finds when it reads them."""
    return hash_json(list(records))


def environment(fingerprint: str, seconds: float, places: Mapping[str, str]) -> dict[str, Any]:
    """Return all that may differ between equal builds."""
    return {
        "fingerprint": fingerprint,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "places": dict(places),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
