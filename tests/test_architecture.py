"""Imports run one way, and what runs on a bare GPU node imports without the extra packages; read from the syntax."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIERS = [
    {"core"},
    {"lm"},
    {"editors", "metrics"},
    {"evaluation", "tracing", "training", "builders"},
    {"leaderboard", "world"},
    {"cli"},
]
ROOMS = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
BARE = {"core", "lm", "editors", "metrics", "evaluation", "tracing", "training"}
EVERYWHERE = {"torch", "transformers", "numpy", "sklearn", "pydantic", "safetensors", "tokenizers", "yaml", "scipy"}


def modules(rooms: Iterable[str] = ROOMS) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in imports(ast.parse(path.read_text())):
        other = name.partition(".")[0]
        if other in ROOMS and other != room:
            assert ROOMS[other] < ROOMS[room], f"{room} imports {name}, which is not below it"
            assert room != "metrics" or other == "core", f"metrics needs only core, not {name}"


@pytest.mark.parametrize("path", modules(BARE), ids=lambda path: str(path.relative_to(ROOT)))
def test_bare_rooms_import_only_what_every_node_has(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for name in imports(ast.Module(body=list(top), type_ignores=[])):
        first = name.partition(".")[0]
        known = first in sys.stdlib_module_names or first in ROOMS or first in EVERYWHERE
        assert known, f"{name} is imported at the top; import it where it is used"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_open_with_one_sentence(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, "a module opens with one sentence of what it does"
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":", ";")), "the first paragraph is a sentence"
