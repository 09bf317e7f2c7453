"""Imports run one way, and what runs on a bare GPU node imports without the extra packages; read from the syntax."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from counterfact.contracts.benchmarks import BENCHMARKS
from tests.support import ROOT

TIERS = [
    {"core"},
    {"lm"},
    {"contracts"},
    {"statistics", "editing"},
    {"evaluation", "tracing", "training"},
    {"leaderboard"},
    {"api"},
    {"the face"},
    {"cli"},
]
"""The engine, from the bottom up; the face is `counterfact/__init__.py`."""
ROOMS = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
EXTENSIONS = {"builders", "editors", "metrics"}
"""What people add to: found by discovery, and imported by nothing in the engine but these:"""
CALL_BUILDERS = {"api", "cli"}
BARE = {*ROOMS, "editors", "metrics"} - {"leaderboard", "the face", "cli"}
EVERYWHERE = {
    "torch",
    "transformers",
    "numpy",
    "sklearn",
    "pydantic",
    "safetensors",
    "tokenizers",
    "yaml",
    "scipy",
    "pydantic_core",
}


def modules(rooms: Iterable[str] = (*ROOMS, *EXTENSIONS)) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / "counterfact" / room).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what a tree imports by an absolute name; what is relative stays in its folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


def rooms_of(tree: ast.AST) -> Iterator[str]:
    """Yield the rooms of this package that a tree imports from; the face counts as one."""
    for name in imports(tree):
        package, _, rest = name.partition(".")
        if package == "counterfact":
            yield rest.partition(".")[0] or "the face"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[1]
    for other in rooms_of(ast.parse(path.read_text())):
        if room in EXTENSIONS:
            assert other != room, f"{room} imports its own modules by a relative name"
            assert other in ROOMS, f"{room} imports {other}: extensions know the engine alone"
        elif other in EXTENSIONS:
            allowed = room in CALL_BUILDERS and other == "builders"
            assert allowed, f"{room} imports {other}: the engine finds extensions by discovery"
        elif other != room:
            assert ROOMS[other] < ROOMS[room], f"{room} imports {other}, which is not below it"


@pytest.mark.parametrize("path", modules(CALL_BUILDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_builders_are_called_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "builders" not in rooms_of(ast.Module(body=list(top), type_ignores=[]))


ABOUT_THE_PAPER = {"evaluation/paper.py", "evaluation/reproduce.py", "leaderboard/board.py"}
"""What holds the paper's own numbers, which are of its two benchmarks."""
NAMES_OF_NETWORKS = {"editing/networks.py", "training/sources.py"}
"""What names trained networks, by what they were trained on."""


@pytest.mark.parametrize("path", modules(set(ROOMS) - {"api", "cli"}), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_names_no_benchmark(path: Path) -> None:
    place = path.relative_to(ROOT / "counterfact").as_posix()
    if (
        place.startswith(("evaluation/benchmarks/", "evaluation/formats/"))
        or place in ABOUT_THE_PAPER | NAMES_OF_NETWORKS
    ):
        return
    tree = ast.parse(path.read_text())
    for name in imports(tree):
        found = ("counterfact.evaluation.benchmarks", "counterfact.evaluation.formats")
        assert not name.startswith(found), f"{name}: found by discovery"
    allowed = {"core/places.py", "core/hub.py", "evaluation/runners/_slurm_cluster.py"}  # names of folders and of jobs
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert place in allowed or not texts & set(BENCHMARKS)


@pytest.mark.parametrize("path", modules(BARE), ids=lambda path: str(path.relative_to(ROOT)))
def test_bare_rooms_import_only_what_every_node_has(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for name in imports(ast.Module(body=list(top), type_ignores=[])):
        first = name.partition(".")[0]
        known = first in sys.stdlib_module_names or first == "counterfact" or first in EVERYWHERE
        assert known, f"{name} is imported at the top; import it where it is used"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_open_with_one_sentence(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, "a module opens with one sentence of what it does"
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":", ";")), "the first paragraph is a sentence"
