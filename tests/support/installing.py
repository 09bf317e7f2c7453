"""Distributions of this checkout, and virtual environments that hold one of them and the packages it needs."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.support import ROOT


def distribution(kind: str, source: Path, out: Path) -> Path:
    """Build a `wheel` or an `sdist` of a folder of sources by its own build backend, without a network."""
    out.mkdir(parents=True)
    program = f"import setuptools.build_meta as backend, sys; print(backend.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(out.iterdir())


def checkout(folder: Path) -> Path:
    """Copy what git knows of this checkout, uncommitted changes included, as a repository of one commit."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    there = [name for name in listed if name and os.path.lexists(ROOT / name)]
    command = ["tar", "-c", "--null", "--files-from=-"]
    packed = subprocess.run(command, cwd=ROOT, input="\0".join(there).encode(), capture_output=True, check=True)
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=packed.stdout, check=True)
    repository(folder)
    return folder


def repository(folder: Path) -> str:
    """Make a git repository of a folder, with all of it in one commit; return the commit."""
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "all")
    return run(folder, "git", "rev-parse", "HEAD").strip()


def environment(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment with a wheel in it; other packages are those of this interpreter.

    Returns:
        Its folder of programs.
    """
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    site = run(folder, str(programs / "python"), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])")
    # A path in a .pth file is searched without the .pth files in it, so that no editable install comes along.
    (Path(site.strip()) / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet"]
    run(folder, *pip, "--no-index", "--no-deps", "--no-compile", "--ignore-installed", str(wheel))
    return programs


def run(folder: Path, *command: str, **variables: str) -> str:
    """Run a program in a folder, in an environment without paths to this checkout; return what it prints."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "COUNTERFACT_DATA"}}
    done = subprocess.run(list(command), cwd=folder, env=clean | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
