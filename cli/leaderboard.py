"""`counterfact leaderboard`: rank runs, draw them, write a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli._common import console
from cli.summarize import find_runs

if TYPE_CHECKING:
    from evaluation.store import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("leaderboard")(leaderboard)


def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder of results; every run below it is read.")],
    out: Annotated[Path, typer.Option(help="Folder of the page and the picture.")] = Path("leaderboard-site"),
) -> None:
    """Rank all runs below a folder and write a results page with its picture.

    Example: `counterfact leaderboard results --out site`
    """
    runs = find_runs([results])
    page = write_site(runs, out)
    console.print(f"{len(runs)} runs: {page} and {page.with_name('ranking.png')}")


def write_site(runs: "list[Run]", out: Path) -> Path:
    """Rank runs and write the page; return its path."""
    import inspect  # noqa: PLC0415

    from leaderboard.page import write_page  # noqa: PLC0415
    from leaderboard.ranking import rank  # noqa: PLC0415
    from metrics import COMPOSITES, METRICS  # noqa: PLC0415

    docs = {name: METRICS.get(name).doc for name in METRICS} | {name: COMPOSITES.get(name).doc for name in COMPOSITES}
    said = {name: inspect.cleandoc(doc).splitlines()[0] for name, doc in docs.items()}
    return write_page(rank(run.data for run in runs), out, said)
