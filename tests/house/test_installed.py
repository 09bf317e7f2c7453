"""What an installation is: one package that holds all it needs, knows where it comes from, and runs anywhere."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.installing import checkout, distribution, environment, repository, run

PARTS = (
    *("builders/hub/card.md", "leaderboard/site/index.html", "leaderboard/workflow.yml"),
    *("editors/settings/rome/gpt2-xl.yaml", "data/models/factlm/config.json", "data/articles/articles.jsonl"),
)
"""One of each kind of file that is no code."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, with what tools and earlier builds leave in one."""
    folder = checkout(tmp_path_factory.mktemp("source") / "clone")
    for left in ("builders/__pycache__/zsre.cpython-311.pyc", "build/lib/counterfact/removed.py"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distribution("wheel", source, tmp_path_factory.mktemp("built") / "wheel")


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment with the wheel, in the repository of another project."""
    theirs = tmp_path_factory.mktemp("theirs")
    (theirs / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    repository(theirs)
    return environment(theirs / ".venv", wheel)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a user's own files, named as ours are."""
    for name in ("core.py", "metrics.py", "editors.py", "cli/__init__.py", "data/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError('this file is the user\\'s own')\n")
    return tmp_path


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_a_wheel_holds_one_package_and_all_of_it_but_no_results(wheel: Path) -> None:
    names = names_in(wheel)
    assert {name.partition("/")[0] for name in names} == {"counterfact", "counterfact_toolkit-0.1.0.dist-info"}
    assert {f"counterfact/{part}" for part in PARTS} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(("/removed.py", ".pyc"))]
    assert not [name for name in names if name.startswith("counterfact/data/board/")]
    assert wheel.stat().st_size < 12e6


def test_an_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(distribution("sdist", source, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.glob("counterfact_toolkit-*")
    again = distribution("wheel", unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        differing = {name for name in one.namelist() if one.read(name) != other.read(name)}
    assert sorted(names_in(again)) == sorted(names_in(wheel)) and not differing


def test_a_copy_without_its_links_is_not_built(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns(".git", "build"))
    (tmp_path / "copy/counterfact/data").unlink()
    (tmp_path / "copy/counterfact/data").write_text("../data")
    with pytest.raises(AssertionError, match=r"counterfact/data is not a folder: .* lost its symbolic links"):
        distribution("wheel", tmp_path / "copy", tmp_path / "wheel")


def test_the_commit_is_that_of_the_build_never_of_what_lies_around(source: Path, programs: Path) -> None:
    ask = "import json; from counterfact.core.provenance import code_identity as c; print(json.dumps(c()))"
    commit = run(source, "git", "rev-parse", "HEAD").strip()
    assert json.loads(run(programs, "./python", "-c", ask)) == {"version": "0.1.0", "commit": commit, "dirty": False}
    copied = programs.parents[1] / "vendored"
    shutil.copytree(source / "counterfact/core", copied / "counterfact/core")
    (copied / "counterfact/__init__.py").write_text("")
    found = json.loads(run(copied, str(programs / "python"), "-c", ask))
    assert (found["commit"], found["dirty"]) == (None, None), "a copy without git of its own knows no commit"
    assert json.loads(run(source, str(programs / "python"), "-c", ask))["commit"] == commit
    hook = json.loads(run(source, str(programs / "python"), "-c", ask, GIT_DIR=str(programs.parents[1] / ".git")))
    assert hook["commit"] == commit, "as within a hook of another repository"


def test_it_runs_beside_files_of_the_same_names(programs: Path, elsewhere: Path) -> None:
    program = str(programs / "counterfact")
    run(elsewhere, program, "build", "--out", "built", "--relation", "P19", COUNTERFACT_CACHE=str(elsewhere / "cache"))
    assert (elsewhere / "built/records.jsonl").stat().st_size > 0
    assert "data/site-packages" not in run(elsewhere, program, "doctor")


TEN_LINES = """
from counterfact import Request, edit, evaluate, load_dataset, load_lm, say

lm = load_lm("factlm")
request = Request(0, "{} is headquartered in", "Paramount Pictures", "Oslo")
made = edit(lm, request, "rome")
print(say(lm, request.filled, made).next_tokens[0][0])
runs = evaluate(lm, load_dataset("demo/counterfact", limit=2), ["ft", "rome"], out="results")
print(runs)
"""


@pytest.mark.soak
def test_the_whole_way_from_an_installation(programs: Path, elsewhere: Path) -> None:
    program, cache = str(programs / "counterfact"), {"COUNTERFACT_CACHE": str(elsewhere / "cache")}
    assert "Ranking on" in run(elsewhere, program, "demo", "--limit", "2", **cache)
    given = ["--dataset", "demo/zsre", "--limit", "2", "--out", "results"]
    run(elsewhere, program, "evaluate", *given, "--editor", "ft", **cache)
    run(elsewhere, program, "leaderboard", "build", "results", "--out", "site", **cache)
    assert "zsre" in (elsewhere / "site/data.js").read_text()
    (elsewhere / "notebook.py").write_text(TEN_LINES)
    said = run(elsewhere, str(programs / "python"), "notebook.py", **cache)
    assert said.startswith(" Oslo\n") and "| rome |" in said
