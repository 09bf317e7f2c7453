"""Pages of the rooms, from the syntax of their modules: what is public, its members, and its docstrings."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from docs import measured

ROOT = Path(__file__).resolve().parent.parent


def room_page(room: str) -> str:
    """Return the page of a room: each package's and module's opening, then each public name with its members."""
    folder = ROOT / "counterfact" / room
    lines = [f"# `{room}/`", "", _doc(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), ""]
    for path in sorted(folder.rglob("*.py")):
        if path == folder / "__init__.py" or (path.name.startswith("_") and path.name != "__init__.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        lines += [f"## `{name}`", "", _doc(tree), ""]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                lines += _class(node) if isinstance(node, ast.ClassDef) else _function(node, "###")
    return "\n".join(lines).rstrip() + "\n"


def _function(node: ast.FunctionDef, level: str) -> list[str]:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    title = f"{node.name}({ast.unparse(node.args)}){returns}"
    return [f"{level} `{title}`", "", _doc(node), ""]


def _class(node: ast.ClassDef) -> list[str]:
    """Return a class: its docstring, a table of its fields, then its public properties and methods."""
    lines = [f"### `class {node.name}{_constructor(node)}`", "", _doc(node), ""]
    if fields := list(_fields(node)):
        lines += [measured.table(["field", "type", "default", "meaning"], fields), ""]
    for member in node.body:
        if not isinstance(member, ast.FunctionDef) or member.name.startswith("_"):
            continue
        marks = {ast.unparse(mark) for mark in member.decorator_list}
        if marks & {"property", "cached_property"}:
            returns = f": {ast.unparse(member.returns)}" if member.returns else ""
            lines += [f"#### `{node.name}.{member.name}{returns}`", "", _doc(member), ""]
        elif "overload" not in marks:
            member.name = f"{node.name}.{member.name}"
            if "staticmethod" not in marks:
                _drop_self(member.args)
            lines += _function(member, "####")
    return lines


def _constructor(node: ast.ClassDef) -> str:
    """Return the arguments of a constructor that is written out; fields stand in a table instead."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            _drop_self(member.args)
            return f"({ast.unparse(member.args)})"
    return ""


def _drop_self(arguments: ast.arguments) -> None:
    del (arguments.posonlyargs or arguments.args)[0]


def _fields(node: ast.ClassDef) -> Iterator[list[str]]:
    """Yield name, type, default and meaning of each public field; the meaning is the text that follows it."""
    for member, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
            continue
        if member.target.id.startswith("_"):
            continue
        meaning = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            meaning = " ".join(str(following.value.value).split())
        default = "" if member.value is None else f"`{_default(member.value)}`"
        yield [f"`{member.target.id}`", f"`{ast.unparse(member.annotation)}`", default, meaning]


def _default(value: ast.expr) -> str:
    """Return a default as it is written, without the `field` or `Field` around it.

    >>> _default(ast.parse("Field(20, ge=1)", mode="eval").body)
    '20'
    >>> _default(ast.parse("field(default_factory=dict)", mode="eval").body)
    'dict()'
    """
    if isinstance(value, ast.Call) and ast.unparse(value.func) in {"field", "Field"}:
        named = {each.arg: each.value for each in value.keywords}
        if "default_factory" in named:
            return f"{ast.unparse(named['default_factory'])}()"
        inner = value.args[0] if value.args else named.get("default")
        return "" if inner is None else ast.unparse(inner)
    return ast.unparse(value)


def _doc(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """Return a docstring with its doctests in fences; the rest is Markdown already."""
    doc = inspect.cleandoc(ast.get_docstring(node) or "")
    examples = r"((?:^ *>>> .*\n?(?:^(?! *>>> )\S.*\n?|^ *\.\.\. .*\n?)*)+)"
    return re.sub(examples, r"```python\n\1\n```\n", doc, flags=re.M)
