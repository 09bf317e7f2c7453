"""Which code the records of a builder follow from: its module, and whatever of the builders that imports, by source.

A finished data set is stale when that code has changed, and only then: the card that is written about it, its audit
and other builders may change as they like.
"""

import ast
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.util import find_spec, resolve_name
from pathlib import Path

PACKAGE = __name__.rpartition(".")[0]

_ALSO = ("counterfact.core.prompts", "counterfact.core.seeds")
"""Modules of the engine that choose and join texts."""


@cache
def code_behind(module: str) -> str:
    """Return a hash of the source of a module of the builders and of all that it imports of them, step by step.

    Args:
        module: its full name, `__name__`.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    digest = sha256()
    for name in sorted(modules_behind(module)):
        digest.update(f"{name}\0".encode() + _source(name) + b"\0")
    return digest.hexdigest()


def modules_behind(module: str) -> set[str]:
    """Return the names of the modules whose source `code_behind` hashes."""
    seen: set[str] = set()
    front = {module, *_ALSO}
    while front:
        seen |= front
        front = {name for one in front for name in _imports(one) if name.startswith(f"{PACKAGE}.")} - seen
    return seen


def _imports(module: str) -> Iterator[str]:
    """Yield the modules that one imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = "." * node.level + (node.module or "")
            found = resolve_name(above, module.rpartition(".")[0]) if node.level else above
            yield found
            yield from (name for alias in node.names if _path(name := f"{found}.{alias.name}") is not None)


def _source(module: str) -> bytes:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module}")
    return path.read_bytes()


def _path(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
