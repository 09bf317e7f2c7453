"""Which code this is: its version, the commit of its own repository or the one it was built from, and its source."""

import json
import os
import subprocess
import tomllib
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "counterfact-toolkit"
BUILT_FROM = "built_from.json"
"""Beside this module in a wheel and in an sdist: the commit and dirty flag of the checkout that it was built from."""


def code_identity() -> dict[str, Any]:
    """Return version, commit and dirty flag of this code; `None` where they cannot be known."""
    here = Path(__file__).resolve()
    built = here.with_name(BUILT_FROM)
    state = json.loads(built.read_text(encoding="utf-8")) if built.exists() else checkout_state(here.parents[2])
    return {"version": version_of(DISTRIBUTION), **state}


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; `None` where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def code_hash(*packages: str) -> str:
    """Return a hash of the source of all modules in some packages: what code has computed is kept under it.

    Args:
        packages: names, as `counterfact.editing`; what is below them counts too.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    digest = sha256()
    for package in packages:
        for root in import_module(package).__path__:
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def checkout_state(root: Path) -> dict[str, Any]:
    """Return commit and dirty flag of a checkout of this project; both `None` where `root` is not the root of one.

    A package that lies inside the checkout of something else, as in a virtual environment there, says nothing about
    that other project.
    """
    unknown = {"commit": None, "dirty": None}
    if not _is_ours(root):
        return unknown
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return unknown if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _is_ours(root: Path) -> bool:
    """Whether a folder holds this project's own `pyproject.toml` and is the root of a git work tree."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return False
    top = _git(root, "rev-parse", "--show-toplevel")
    return project.get("name") == DISTRIBUTION and top is not None and Path(top).resolve() == root.resolve()


def _git(root: Path, *arguments: str) -> str | None:
    # Within a hook of git, these variables name the repository whose hook it is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
