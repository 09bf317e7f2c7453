"""The lower bounds in `pyproject.toml` are the versions that `make test-lowest` installs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
PINS = dict(re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "constraints-lowest.txt").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("line", DEPENDENCIES)
def test_a_lower_bound_is_the_version_that_is_tested(line: str) -> None:
    requirement = Requirement(line)
    bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert bounds == [Version(PINS[requirement.name])]
