"""Fixtures that every test may use."""

import os
import sys
from pathlib import Path

import pytest

from tests.support import Command


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that is never committed, or skip."""
    folder = os.environ.get("REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set REAL_DATA to the folder that holds counterfact/, pararel/, golden/ ...")
    return Path(folder).resolve()


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache; one cache for the whole session, so that nothing is computed twice."""
    base = tmp_path_factory.getbasetemp()  # of each worker, where several share the session
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("COUNTERFACT_CACHE", str(session / "cache"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `counterfact` in this process; returns exit code, stdout, stderr."""
    from counterfact.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["counterfact", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return run
