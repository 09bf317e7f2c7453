"""From a build over the Hub to an evaluation: the same results as from the build itself, to the byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from counterfact.core.files import read_json
from tests.builders.test_hub import built
from tests.support import ROOT
from tests.support.hub_server import TOKEN, Hub, serve
from tests.support.models import tiny_folder

COMMANDS = """
import json, sys
from counterfact.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["counterfact", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def counterfact(hub: Hub, home: Path, *commands: list[str], token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run command lines one after the other, in a process that knows no other Hub than this one."""
    ours = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(home), "COUNTERFACT_CACHE": str(home / "cache")}
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, **ours, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_build_push_load_evaluate(tmp_path: Path) -> None:
    folder = str(built(tmp_path / "data"))
    model = ["--model", str(tiny_folder("gpt2")), "--dtype", "float64", "--length", "24", "--editor", "identity"]
    with serve(Hub()) as hub:
        done = counterfact(
            hub,
            tmp_path / "home",
            ["push", folder, "--to", "org/name"],
            ["push", folder, "--to", "org/name"],
            ["evaluate", "--dataset", folder, "--out", str(tmp_path / "local"), *model],
            ["evaluate", "--dataset", "org/name@v1.0.0", "--out", str(tmp_path / "hub"), *model],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert TOKEN not in done.stdout + done.stderr
        assert "unchanged, version v1.0.0" in done.stdout
        assert len(hub.repos["org/name"].commits) == 2
    [local] = (tmp_path / "local").rglob("cases.jsonl")
    [there] = (tmp_path / "hub").rglob("cases.jsonl")
    assert there.relative_to(tmp_path / "hub") == local.relative_to(tmp_path / "local")
    assert there.read_bytes() == local.read_bytes()
    ours, theirs = read_json(local.parent / "run.json"), read_json(there.parent / "run.json")
    assert ours["metrics"]["RS"]["n"] > 0
    for run in (ours, theirs):
        del run["environment"]
    assert theirs == ours
    assert not [
        file for file in (tmp_path / "home").rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()
    ]


def test_the_embedded_data_sets_come_back_the_same(tmp_path: Path) -> None:
    """CounterFact and zsRE as this repository builds them, over the Hub, through an editor that trains."""
    facts, questions = str(tmp_path / "counterfact"), str(tmp_path / "zsre")
    how = ["--model", "factlm", "--limit", "4", "--length", "16", "--editor", "ft"]
    with serve(Hub()) as hub:
        done = counterfact(
            hub,
            tmp_path / "home",
            ["build", "--out", facts],
            ["zsre", "--out", questions, "--limit", "20"],
            ["push", facts, questions, "--to", "org/name"],
            ["evaluate", "--dataset", facts, "--out", str(tmp_path / "local"), *how],
            ["evaluate", "--dataset", questions, "--out", str(tmp_path / "local"), *how],
            ["evaluate", "--dataset", "org/name:counterfact@v2.0.0", "--out", str(tmp_path / "hub"), *how],
            ["evaluate", "--dataset", "org/name:zsre@v2.0.0", "--out", str(tmp_path / "hub"), *how],
        )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [
        {str(path.relative_to(tmp_path / side)): path.read_bytes() for path in (tmp_path / side).rglob("*.jsonl")
         if path.name != "timings.jsonl"}
        for side in ("local", "hub")
    ]  # fmt: skip
    assert len([name for name in results[0] if name.endswith("cases.jsonl")]) == 2
    assert results[0] == results[1]


def test_a_dry_run_asks_nobody(tmp_path: Path) -> None:
    folder = str(built(tmp_path / "data"))
    with serve(Hub()) as hub:
        stage = ["--stage", str(tmp_path / "staged")]
        done = counterfact(hub, tmp_path / "home", ["push", folder, "--to", "org/name", "--dry-run", *stage])
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.log == []
    assert (tmp_path / "staged" / "README.md").is_file()
    assert "counterfact/test-00000-of-00001.parquet" in done.stdout


@pytest.mark.parametrize("token", ["", "hf_" + "unknown" * 4])
def test_a_token_that_is_refused_ends_with_code_2(tmp_path: Path, token: str) -> None:
    folder = str(built(tmp_path / "data"))
    with serve(Hub()) as hub:
        done = counterfact(hub, tmp_path / "home", ["push", folder, "--to", "org/name"], token=token)
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    assert not token or token not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
