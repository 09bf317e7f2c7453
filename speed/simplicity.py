"""How much there is to read: statements of the package, and files and functions that one edit and one run pass through.

    python -m speed.simplicity                       # this checkout
    python -m speed.simplicity --root ../earlier     # another one, this one's beside it

Statements are counted in the syntax tree, docstrings and imports apart. Files and functions are those of the checkout
that are entered while ROME is called on one request, by either engine, and while `counterfact evaluate --limit 1` runs;
what runs because a module is imported (bodies of classes, decorators) is not counted.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

APART = {"tests", "speed", "benchmarks", "docs", "world", "data", "build"}
"""Folders that are not of the package, nor is what begins with a dot."""

PROFILE = """
import os, sys, threading
entered = set()
importing = threading.local()
def note(frame, event, _argument):
    if event not in ("call", "return"):
        return
    if frame.f_code.co_name == "<module>":
        importing.depth = getattr(importing, "depth", 0) + (1 if event == "call" else -1)
    elif event == "call" and not getattr(importing, "depth", 0):
        name = os.path.realpath(frame.f_code.co_filename)
        if os.path.isfile(name) and name.startswith(root + os.sep) and "/.venv/" not in name:
            entered.add((os.path.relpath(name, root), frame.f_code.co_qualname))
def begin():
    threading.setprofile(note); sys.setprofile(note)
def end():
    sys.setprofile(None); threading.setprofile(None)
    return {"files": len({file for file, _ in entered}), "functions": len(entered)}
"""

EDIT = """
lm = load_lm(data_folder() / "models" / "factlm", device="cpu")
spec = EDITORS.get("rome")
given = Resources(second_moment_texts=load_texts("embedded"), second_moment_max_texts=20{engine})
rome = spec.prepare(lm, spec.resolve(lm.name, lm.n_layers, ["steps=3"]).settings, given)
request = Request(0, "{{}} appeared on stage playing the", "Charlie Watts", "violin")
begin()
made = edit(rome, request)
"""

IMPORTS = {
    True: """
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.places import data_folder
from counterfact.core.records import Request
from counterfact.core.texts import load_texts
import counterfact
from counterfact.lm.model.loading import load_lm
edit = lambda editor, request: editor([[request]], 0)
""",
    False: """
from core.places import data_folder
from core.records import Request
from core.texts import load_texts
from editors import EDITORS, Resources
from lm.loading import load_lm
edit = lambda editor, request: editor([request], 0)
""",
}

RUN = """
from {main} import main
sys.argv = ["counterfact", "evaluate", "--dataset", "{data}", "--limit", "1", "--out", "{out}", "--max-texts", "20"]
begin()
try:
    main()
except SystemExit:
    pass
"""


def main() -> None:
    """Print a table of this checkout, and of another one before it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="another checkout")
    given = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    roots = [given.root.resolve(), here] if given.root else [here]
    found = [measure(root) for root in roots]
    for name in found[-1]:
        print(f"{name:55}", *(f"{each[name]:>9,}" if name in each else f"{'–':>9}" for each in found))


def measure(root: Path) -> dict[str, int]:
    """Return all counts of one checkout."""
    files = sources(root)
    counts = {"files of the package": len(files), "statements": sum(statements(path) for path in files)}
    with tempfile.TemporaryDirectory() as place:
        for name, code in _codes(root, place).items():
            traced = _traced(root, code, place)
            counts |= {f"{what} entered: {name}": number for what, number in traced.items()}
    return counts


def sources(root: Path) -> list[Path]:
    """Return the modules of the package, each once."""
    top = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in APART]
    folders = [path for path in top if not path.name.startswith(".")]
    found = {path.resolve() for folder in folders for path in folder.rglob("*.py")}
    return sorted(path for path in found if not path.is_relative_to(root / "data"))


def statements(path: Path) -> int:
    """Count the statements of a module, docstrings and imports apart.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
    ...     _ = file.write('"A module."\\nimport os\\nif os.name:\\n    x = 1\\n')
    ...     file.flush()
    ...     statements(Path(file.name))
    2
    """
    count = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if isinstance(node, ast.stmt) and not is_text and not isinstance(node, ast.Import | ast.ImportFrom):
            count += 1
    return count


def _codes(root: Path, place: str) -> dict[str, str]:
    imports = IMPORTS[(root / "counterfact").is_dir()]
    codes = {"ROME on one request": imports + EDIT.format(engine="")}
    if (root / "counterfact" / "editing" / "plain.py").exists():
        codes["ROME on one request, plain engine"] = imports + EDIT.format(engine=', engine="plain"')
    return codes | {"evaluate --limit 1": _run_code(root, place)}


def _run_code(root: Path, place: str) -> str:
    main = "counterfact.cli.main" if (root / "counterfact").is_dir() else "cli.main"
    data = Path(place) / f"data-{root.name}"
    if not data.exists():
        command = [sys.executable, "-m", main, "build", "--out", str(data), "--relation", "P103"]
        subprocess.run(command, cwd=root, env=_environment(root, place), check=True, capture_output=True)
    return RUN.format(main=main, data=data, out=Path(place) / f"results-{root.name}")


def _traced(root: Path, code: str, place: str) -> dict[str, Any]:
    whole = f"root = {str(root)!r}\n{PROFILE}\n{code}\nimport json\nprint('COUNTS' + json.dumps(end()))"
    command = [sys.executable, "-c", whole]
    done = subprocess.run(command, cwd=root, env=_environment(root, place), check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("COUNTS"))
    counts: dict[str, Any] = json.loads(line.removeprefix("COUNTS"))
    return counts


def _environment(root: Path, place: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "COUNTERFACT_CACHE": f"{place}/cache-{root.name}"}


if __name__ == "__main__":
    main()
