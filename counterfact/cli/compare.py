"""`counterfact compare`: two data sets with each other, or runs with a baseline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Json, Plugin, load_plugins, note, print_json
from counterfact.cli._recovery import print_recovery
from counterfact.cli._tables import print_table, print_tables
from counterfact.cli.summarize import Form
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.builders.audit.overlap import Shared


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    what: Annotated[
        list[str],
        typer.Argument(help="Two data sets; with --baseline, folders of runs."),
    ],
    baseline: Annotated[Path | None, typer.Option(help="Compare runs: the run to compare the others with.")] = None,
    form: Form = "terminal",
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Show what two data sets share, in both directions; with `--baseline`, paired differences between runs.

    Example: `counterfact compare datasets/counterfact counterfact.json`

    Example: `counterfact compare results --baseline results/counterfact@1/factlm@1a2b3c4d/ft-0a1b2c3d`
    """
    load_plugins(plugin)
    if baseline is not None:
        _runs([Path(folder) for folder in what], baseline, form)
    elif len(what) != 2 or len({Path(name).resolve() for name in what}) == 1:
        raise BadInput(
            f"expected two data sets to compare, got {', '.join(what)}; to compare runs, say with which: --baseline RUN"
        )
    else:
        _data_sets(*what, as_json=as_json)


def _runs(folders: list[Path], baseline: Path, form: str) -> None:
    from counterfact.evaluation.store import find_runs, load_run  # noqa: PLC0415
    from counterfact.evaluation.summary import compare as differences  # noqa: PLC0415
    from counterfact.evaluation.summary import why_unlike  # noqa: PLC0415

    against = load_run(baseline)
    others = [run for run in find_runs(*folders) if run.folder.resolve() != against.folder.resolve()]
    unlike = {run.folder: reason for run in others if (reason := why_unlike(run, against))}
    if len(unlike) == len(others):
        first = next(iter(unlike.values()), f"no other run below {', '.join(map(str, folders))}")
        raise BadInput(f"no run to compare with {against.folder}: {first}")
    if unlike:
        note(f"passed over, of another data set, benchmark or schedule: {len(unlike)} of {len(others)} runs")
    others = [run for run in others if run.folder not in unlike]
    print_tables([differences(others, against)], form)


def _data_sets(first: str, second: str, *, as_json: bool) -> None:
    from counterfact.builders.audit.overlap import compare_datasets  # noqa: PLC0415

    for name in (first, second):
        if (Path(name) / "run.json").is_file():
            raise BadInput(f"{name} is a run, not a data set; to compare runs, say with which: --baseline RUN")
    found = compare_datasets(first, second)
    if as_json:
        print_json({"overlap": [row._asdict() for row in found.overlap], "recovery": found.recovery.to_json()})
        return
    print_table(
        ("item", "first", "second", "both", "of first", "of second"),
        map(_row, found.overlap),
        title=f"first: {found.first}, second: {found.second}",
        note="different ones, by their text",
    )
    print_recovery(found.recovery)


def _row(row: "Shared") -> list[str]:
    shares = ["–" if share is None else f"{share:.1%}" for share in (row.of_first, row.of_second)]
    return [row.item, *(f"{count:,}" for count in (row.first, row.second, row.both)), *shares]
