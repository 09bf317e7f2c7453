"""What `pyproject.toml` cannot say: a build keeps the commit it was made from, and refuses a checkout without links."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
LINKED = ("builders", "editors", "metrics", "data")
"""Folders that are links in a checkout, and folders in an sdist."""
provenance: dict[str, Any] = runpy.run_path(str(ROOT / "counterfact" / "core" / "provenance.py"))
STATE: dict[str, Any] = provenance["checkout_state"](ROOT)
"""Asked before a build leaves files of its own in the checkout."""


def keep_commit(package: Path) -> None:
    """Write the commit of this checkout into a package; an sdist has none and carries what it was made from."""
    if STATE["commit"] is not None:
        (package / "core" / provenance["BUILT_FROM"]).write_text(json.dumps(STATE) + "\n", encoding="utf-8")


class BuildPackage(build_py):
    """Copy the package without what an earlier build left, and keep its commit."""

    def run(self) -> None:
        """Build; an editable install copies nothing and asks git whenever it runs."""
        package = Path(self.build_lib) / "counterfact"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            keep_commit(package)


class SourceDistribution(sdist):
    """Keep the commit in the source distribution too."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files; the links of a checkout become folders."""
        super().make_release_tree(base_dir, files)
        keep_commit(Path(base_dir) / "counterfact")


for name in LINKED:
    if not (ROOT / "counterfact" / name).is_dir():
        raise SystemExit(
            f"counterfact/{name} is not a folder: this copy has lost its symbolic links. Clone with "
            "`git clone -c core.symlinks=true`, or install from a wheel or an sdist"
        )
setup(cmdclass={"build_py": BuildPackage, "sdist": SourceDistribution})
