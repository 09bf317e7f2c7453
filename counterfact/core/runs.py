"""What kind of run a folder holds: each kind has its readers, which pass over the others."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json

RUN = "run.json"
"""The file of every kind of run."""
Kind = Literal["evaluation", "sweep", "trace"]
MAKERS: dict[Kind, tuple[str, str]] = {
    "evaluation": ("evaluate", "summarize"),
    "sweep": ("sweep", "sweep"),
    "trace": ("trace", "figures"),
}
"""The commands that make runs of a kind, and show them."""


def kind_of(data: Any) -> Any:
    """Return the kind that a run file says; one that says none is of a time when only traces had a method.

    >>> kind_of({"kind": "sweep"}), kind_of({"method": "causal"}), kind_of({"schema": 1})
    ('sweep', 'trace', 'evaluation')
    """
    if not isinstance(data, dict):
        return None
    return data.get("kind", "trace" if "method" in data else "evaluation")


def check_kind(data: Any, path: Path, *kinds: Kind) -> None:
    """Raise `BadInput` unless a run file is of one of some kinds; the message says what it is and what shows it."""
    found = kind_of(data)
    if found in MAKERS and found not in kinds:
        raise BadInput(
            f"{path} is a run of `counterfact {MAKERS[found][0]}`, not of `counterfact {MAKERS[kinds[0]][0]}`; "
            f"`counterfact {MAKERS[found][1]}` shows it"
        )


def find_run_folders(roots: Sequence[Path], kind: Kind) -> list[Path]:
    """Return the folders at or below some roots that hold runs of a kind, each once, in the order of their paths.

    Raises:
        BadInput: there are none; the message says what runs there are.
    """
    if missing := [root for root in roots if not root.is_dir()]:
        raise BadInput(f"no folder {missing[0]}")
    paths = {path.resolve(): path for root in roots for path in sorted(root.rglob(RUN))}
    kinds = {path: kind_of(read_json(path)) for path in paths.values()}
    if found := [path.parent for path, other in kinds.items() if other == kind]:
        return found
    others = ", ".join(
        f"{n} of `counterfact {MAKERS[other][0]}`" for other, n in Counter(kinds.values()).items() if other in MAKERS
    )
    where = ", ".join(map(str, roots))
    raise BadInput(
        f"no finished run in {where}{others and f', only {others}'}; expected a folder of results that "
        f"`counterfact {MAKERS[kind][0]}` wrote"
    )
