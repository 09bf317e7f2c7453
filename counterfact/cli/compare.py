"""`counterfact compare`: two data sets with each other, or runs with a baseline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from counterfact.cli._common import Json, Plugin, console, load_plugins
from counterfact.cli.summarize import Form, find_runs, print_tables
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from collections import Counter

    from counterfact.builders.audit.overlap import Shared

OURS = "datasets/counterfact"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    what: Annotated[
        list[str],
        typer.Argument(help="Two data sets, or one to compare with datasets/counterfact; or folders of runs."),
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
    elif len(what) > 2:
        raise BadInput(f"expected one or two data sets, got {len(what)}; to compare runs, give --baseline RUN")
    else:
        _data_sets(*([OURS, *what] if len(what) == 1 else what), as_json=as_json)


def _runs(folders: list[Path], baseline: Path, form: str) -> None:
    from counterfact.evaluation.store import load_run  # noqa: PLC0415
    from counterfact.evaluation.summary import compare as differences  # noqa: PLC0415

    against = load_run(baseline)
    others = [run for run in find_runs(folders) if run.folder != against.folder and run.dataset == against.dataset]
    if not others:
        raise BadInput(f"no other run on {against.dataset} below {', '.join(map(str, folders))}")
    print_tables([differences(others, against)], form)


def _data_sets(first: str, second: str, *, as_json: bool) -> None:
    from counterfact.builders.audit.overlap import compare_datasets  # noqa: PLC0415
    from counterfact.core.files import canonical_json  # noqa: PLC0415

    for name in (first, second):
        if (Path(name) / "run.json").is_file():
            raise BadInput(f"{name} is a run, not a data set; to compare runs, say with which: --baseline RUN")
    found = compare_datasets(first, second)
    if as_json:
        value = {"overlap": [row._asdict() for row in found.overlap], "missing": found.missing}
        console.print(canonical_json(value), soft_wrap=True, markup=False)
        return
    console.print(_table(found.overlap, found.first, found.second))
    if found.missing:
        console.print(_missing(found.missing, f"facts of {found.second} that {found.first} lacks, and why"))


def _table(rows: "list[Shared]", ours: str, theirs: str) -> Table:
    title = f"first: {ours}, second: {theirs}"
    table = Table(title=title, title_justify="left", caption="different ones, by their text")
    table.add_column("item")
    for head in ("first", "second", "both", "of first", "of second"):
        table.add_column(head, justify="right", min_width=7)
    for row in rows:
        shares = ["–" if share is None else f"{share:.1%}" for share in (row.of_first, row.of_second)]
        table.add_row(row.item, *(f"{count:,}" for count in (row.first, row.second, row.both)), *shares)
    return table


def _missing(reasons: "Counter[str]", title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("reason")
    table.add_column("facts", justify="right")
    for reason, count in reasons.most_common():
        table.add_row(reason, f"{count:,}")
    return table
