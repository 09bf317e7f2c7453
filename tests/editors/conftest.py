"""Fixtures of the tests of editors."""

from pathlib import Path

import pytest

from tests.support.many_edits import ManyEdits


@pytest.fixture(scope="session")
def many_edits(real_data: Path) -> ManyEdits:
    """Runs of the reference implementations of editors of many facts."""
    return ManyEdits(real_data / "golden")
