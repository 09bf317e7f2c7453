"""`counterfact leaderboard`: submit a run, check submissions, build the board."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Json, Plugin, console, load_plugins, note, print_json, progress_bar
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import write_atomic

if TYPE_CHECKING:
    from counterfact.leaderboard.entries import Entry

board = typer.Typer(no_args_is_help=True, help="Submit a run, check submissions, build the ranked site.")


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    app.add_typer(board, name="leaderboard")


@board.command("build")
def build(
    results: Annotated[Path, typer.Argument(help="Folder of results; every run and submission below it is read.")],
    out: Annotated[Path, typer.Option(help="Folder of the site.", file_okay=False)] = Path("leaderboard-site"),
    plugin: Plugin = None,
) -> None:
    """Rank all runs below a folder and write a static site; open its index.html.

    Example: `counterfact leaderboard build results --out site`
    """
    load_plugins(plugin)
    page = write_board(*read_board(results), out)
    console.print(f"{page} and {page.with_name('ranking.png')}")


@board.command("submit")
def submit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="Folder to write; put it into a results repository.", file_okay=False)],
    withhold: Annotated[
        bool, typer.Option("--withhold-requests", help="Write hashes for requests that may not be passed on.")
    ] = False,
    plugin: Plugin = None,
) -> None:
    """Write a finished run as a submission: run.json and one compressed file with a line for each record.

    Example: `counterfact leaderboard submit results/counterfact@1/factlm@1a2b3c4d/rome-0a1b2c3d --out submission`
    """
    load_plugins(plugin)
    from counterfact.evaluation.store import load_run  # noqa: PLC0415
    from counterfact.leaderboard.submission import write_submission  # noqa: PLC0415

    folder, replaced = write_submission(load_run(run), out, withhold=withhold)
    console.print(f"{folder}: check it with `counterfact leaderboard check {folder}`")
    if replaced:
        console.print(f"in {replaced} records letters that could be markup were replaced by ones that look alike")


@board.command("references")
def references(
    results: Annotated[list[Path], typer.Argument(help="Folders of trusted runs of your own.")],
    out: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)] = Path("references.json"),
    plugin: Plugin = None,
) -> None:
    """Write what submissions are held against: known data sets, and what unedited models score on them.

    Example: `counterfact leaderboard references results --out board/references.json`
    """
    load_plugins(plugin)
    from counterfact.evaluation.store import find_runs  # noqa: PLC0415
    from counterfact.leaderboard.references import references_of, write_references  # noqa: PLC0415

    known = references_of(find_runs(*results))
    write_references(out, known)
    console.print(f"{out}: {len(known.datasets)} data sets, {len(known.unedited)} unedited models on them")


@board.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a submission.")],
    every: Annotated[bool, typer.Option("--all", help="Check every submission below the folder.")] = False,
    known: Annotated[
        Path | None, typer.Option("--references", help="By default references.json in the folder or above it.")
    ] = None,
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Check a submission: exit 0 if it is taken, 1 if it is refused, 2 if the arguments are wrong.

    Without references all is checked but what only they tell. Of a whole board: `counterfact leaderboard check
    board/results --all`

    Example: `counterfact leaderboard check submission --references references.json`
    """
    load_plugins(plugin)
    from counterfact.leaderboard.check import check as check_one  # noqa: PLC0415
    from counterfact.leaderboard.check import check_all  # noqa: PLC0415
    from counterfact.leaderboard.references import FILE, find_references, load_references  # noqa: PLC0415

    if not folder.is_dir():
        raise BadInput(f"no folder {folder}")
    path = known or find_references(folder)
    held = None if path is None else load_references(path)
    if held is None and every:
        raise BadInput(f"no {FILE} in {folder} or above it: make one with `counterfact leaderboard references RESULTS`")
    verdicts = {folder: check_one(folder, held)} if held is None or not every else check_all(folder, held)
    if not verdicts:
        raise Failed(f"no submissions in {folder}: expected folders that `counterfact leaderboard submit` wrote")
    if as_json:
        said = {
            str(place): {
                "accepted": one.accepted,
                "missing": one.missing,
                "reasons": [{"code": reason.code, "message": str(reason)} for reason in one.reasons],
            }
            for place, one in verdicts.items()
        }
        print_json(said)
    else:
        for place, verdict in verdicts.items():
            missing = f", {verdict.missing} records are missing and count as failures" if verdict.missing else ""
            console.print(f"{str(place)!a}: {'taken' + missing if verdict.accepted else 'refused'}")
            for reason in verdict.reasons:
                console.print(f"  {str(reason)!a}")
        if held is None:
            note(
                f"without a {FILE} neither the data set nor the unedited model's scores were compared with what a "
                "board knows: its own check does that"
            )
    raise typer.Exit(0 if all(verdict.accepted for verdict in verdicts.values()) else 1)


@board.command("workflow")
def workflow(
    out: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)] = Path(
        ".github/workflows/submissions.yml"
    ),
) -> None:
    """Write the CI workflow of a results repository: it checks every submission and builds the site.

    Example: `counterfact leaderboard workflow --out board/.github/workflows/submissions.yml`
    """
    import counterfact.leaderboard  # noqa: PLC0415

    write_atomic(out, (Path(counterfact.leaderboard.__path__[0]) / "workflow.yml").read_bytes())
    console.print(str(out))


def read_board(results: Path) -> "tuple[list[Entry], dict[str, str]]":
    """Read every run below a folder; say and return what was left out, too."""
    from counterfact.leaderboard.entries import load_entries  # noqa: PLC0415

    with progress_bar("leaderboard") as tell:
        entries, left_out = load_entries(results, tell)
    for name, reason in left_out.items():
        console.print(f"left out {name!a}: {reason!a}", style="yellow")
    return entries, left_out


def write_board(entries: "list[Entry]", left_out: dict[str, str], out: Path) -> Path:
    """Write the site of what was read. Return the page's path."""
    from counterfact.leaderboard.page import write_site  # noqa: PLC0415

    page = write_site(entries, out, left_out)
    console.print(f"on the board: {len(entries)} runs")
    return page
