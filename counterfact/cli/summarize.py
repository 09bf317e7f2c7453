"""`counterfact summarize`, `curves`, `export`, `reproduce` and `score-texts`: what is made of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import (
    Device,
    Dtype,
    Limit,
    MaxTexts,
    Model,
    Plugin,
    Texts,
    console,
    load_plugins,
    open_model,
    progress_bar,
)
from counterfact.cli._tables import print_tables
from counterfact.core.errors import BadInput

Form = Annotated[str, typer.Option("--format", help="terminal, markdown, latex or json.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("summarize")(summarize)
    app.command("curves")(curves)
    app.command("export")(export)
    app.command("reproduce")(reproduce)
    app.command("score-texts")(score_texts)


def summarize(
    results: Annotated[list[Path], typer.Argument(help="Folders; every finished run below them is read.")],
    form: Form = "terminal",
    paper: Annotated[str | None, typer.Option(help="Add printed rows for this model, e.g. gpt2-xl.")] = None,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="One table for a model: all protocols, and where editors change places.")
    ] = False,
    plugin: Plugin = None,
) -> None:
    """Print runs in the layouts of the paper's Tables 4 and 1, or all protocols of a model in one table.

    Example: `counterfact summarize results --paper gpt2-xl --format markdown`
    """
    load_plugins(plugin)
    from counterfact.evaluation.protocols import protocol_tables  # noqa: PLC0415
    from counterfact.evaluation.store import find_runs  # noqa: PLC0415
    from counterfact.evaluation.summary import summary_tables  # noqa: PLC0415

    if protocols and paper:
        raise BadInput("--protocols has no rows of the paper; leave out --paper")
    runs = find_runs(*results)
    print_tables(protocol_tables(runs) if protocols else summary_tables(runs, paper), form)


def curves(
    results: Annotated[list[Path], typer.Argument(help="Folders; every finished run below them is read.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.", file_okay=False)] = Path("curves"),
    plugin: Plugin = None,
) -> None:
    """Draw many edits: what is left of them later, scores against their number, and when the model collapses.

    Example: `counterfact curves results --out pictures`
    """
    load_plugins(plugin)
    from counterfact.evaluation.store import find_runs  # noqa: PLC0415
    from counterfact.leaderboard.curves import draw_curves  # noqa: PLC0415

    for path in draw_curves(find_runs(*results), out):
        console.print(str(path))


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)],
    form: Annotated[str, typer.Option("--format", help="rome: the reference implementation's case files.")] = "rome",
    plugin: Plugin = None,
) -> None:
    """Write a run in another program's format.

    Example: `counterfact export results/counterfact@1/factlm@1a2b3c4d/rome-0a1b2c3d --format rome --out ROME/run_000`
    """
    load_plugins(plugin)
    from counterfact.evaluation.export import export as write  # noqa: PLC0415
    from counterfact.evaluation.store import load_run  # noqa: PLC0415

    console.print(f"{write(load_run(run), out, form)} case files in {out}")


def reproduce(
    dataset: Annotated[str, typer.Option(help="The official counterfact.json.")],
    model: Model = "gpt2-xl",
    out: Annotated[Path, typer.Option(help="Folder of results.", file_okay=False)] = Path("results"),
    limit: Limit = None,
    texts: Texts = "embedded",
    max_texts: MaxTexts = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Check the paper's unedited row, then ROME's, on the official records: inside its interval or not.

    Example: `counterfact reproduce --model gpt2-xl --dataset counterfact.json`
    """
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.contracts.editors import Resources  # noqa: PLC0415
    from counterfact.core.texts import load_texts  # noqa: PLC0415
    from counterfact.evaluation.reproduce import records_needed, verdict_table  # noqa: PLC0415
    from counterfact.evaluation.reproduce import reproduce as check  # noqa: PLC0415
    from counterfact.evaluation.task import Options  # noqa: PLC0415

    data = load_dataset(dataset, min(limit or records_needed(model), records_needed(model)))
    lm = open_model(model, device, dtype)
    resources = Resources(second_moment_texts=load_texts(texts), second_moment_max_texts=max_texts)
    verdicts = []
    with progress_bar("reproducing") as advance:
        for verdict in check(lm, data, out, resources=resources, options=Options(progress=advance)):
            verdicts.append(verdict)
            print_tables([verdict_table([verdict])], "terminal")
    raise typer.Exit(0 if all(verdict.inside for verdict in verdicts) else 1)


def score_texts(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    plugin: Plugin = None,
) -> None:
    """Fill in fluency and consistency of a run that was evaluated with --defer-text-metrics.

    Example: `counterfact score-texts results/counterfact@1/gpt2-xl@15ea56d/rome-3f9c21ab`
    """
    load_plugins(plugin)
    from counterfact.api.evaluating import Runs  # noqa: PLC0415
    from counterfact.evaluation.rescore import score_texts as fill  # noqa: PLC0415

    print_tables(Runs([fill(run)]).tables, "terminal")
