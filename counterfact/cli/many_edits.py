"""`counterfact many-edits`: editors on 1, 10, 100 and all facts at once, and on groups one after another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import Plugin, Seed, Set, load_plugins
from counterfact.cli.demo import Budget, run_command
from counterfact.core.errors import BadInput

SINGLE = ("rome", "ft")
"""Editors of single facts that are repeated on top of each other, beside all that write many at once."""
FEWEST = 100
"""Records that a score is over, at least, where the data set has so many."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("many-edits")(many_edits)


def many_edits(
    out: Annotated[Path, typer.Option(help="Folder of everything.", file_okay=False)] = Path("many-edits"),
    model: Annotated[str, typer.Option(help="A model as elsewhere.")] = "factlm",
    limit: Annotated[int, typer.Option(min=1, help="How many facts are edited, at once and one after another.")] = 1000,
    together: Annotated[int, typer.Option(min=1, help="How many of them share an edit in a sequential run.")] = 50,
    orders: Annotated[int, typer.Option(min=1, help="In how many orders the sequential runs are repeated.")] = 1,
    editor: Annotated[
        list[str] | None, typer.Option(help="Name of an editor; default: rome, ft, and all that write many facts.")
    ] = None,
    seed: Seed = 0,
    set_: Set = None,
    plugin: Plugin = None,
) -> None:
    """Study many edits: scores against their number, what is left of them later, and when a model collapses.

    The facts are those of the embedded world that do not contradict each other.

    Example: `counterfact many-edits --limit 200 --together 20 --editor memit --editor rome`
    """
    load_plugins(plugin)
    from counterfact.contracts.editors import EDITORS  # noqa: PLC0415

    if together > limit:
        raise BadInput(f"expected groups of at most {limit} facts, got {together}")
    mass = [name for name in EDITORS if EDITORS.get(name).most_at_once is None and name != "identity"]
    names = editor or [*SINGLE, *mass]
    mass = [name for name in names if EDITORS.get(name).most_at_once is None]
    budget, data, results = Budget(), out / "counterfact-multi", out / "results"
    shared = ["--dataset", data, "--model", model, "--out", results, "--no-generate", "--seed", seed, *_words(set_)]
    shared += [word for path in plugin or () for word in ("--plugin", path)]
    with budget.stage("build"):
        run_command("build", "--non-conflicting", "--out", data, "--seed", seed)
    for size in sizes(limit) if mass else ():
        with budget.stage(f"{size:,} at once"):
            records = min(limit, max(size, FEWEST))
            chosen = _words(mass, "--editor")
            run_command("evaluate", *shared, *chosen, "--limit", records, "--edits-at-once", size)
    with budget.stage("one group after another"):
        steps = ["--sequential", "--edits-at-once", together, "--steps", limit // together, "--orders", orders]
        run_command("evaluate", *shared, *_words(names, "--editor"), *steps)
    with budget.stage("pictures"):
        run_command("curves", results, "--out", out / "pictures")
    budget.print()


def sizes(limit: int) -> list[int]:
    """Return the numbers of facts at once: powers of ten, then all.

    >>> sizes(1000), sizes(25), sizes(1)
    ([1, 10, 100, 1000], [1, 10, 25], [1])
    """
    return [*(10**power for power in range(4) if 10**power < limit), limit]


def _words(values: Sequence[str] | None, option: str = "--set") -> list[str]:
    return [word for value in values or () for word in (option, value)]
