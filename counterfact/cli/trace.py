"""`counterfact trace` and `figures`: where a model keeps its facts, and pictures of it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import (
    MEASURES,
    Device,
    Dtype,
    Limit,
    MaxMemory,
    Model,
    Precision,
    bytes_of,
    console,
    open_model,
    progress_bar,
)
from counterfact.core.errors import Failed

if TYPE_CHECKING:
    from counterfact.tracing.store import TraceRun

Results = Annotated[Path, typer.Option(help="Folder of results.", file_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("trace")(trace)
    app.command("figures")(figures)


def trace(
    facts: Annotated[Path, typer.Option(help="A known_1000.json, or what `counterfact known` wrote.")],
    method: Annotated[
        list[str] | None, typer.Option(help="causal, severed or ig; may be repeated. Default: causal.")
    ] = None,
    model: Model = "factlm",
    noise: Annotated[
        str,
        typer.Option(
            help="s3 (sigmas of the subjects' embeddings), 0.1 (std), u0.5 (uniform), m, t4.", rich_help_panel=MEASURES
        ),
    ] = "s3",
    samples: Annotated[int, typer.Option(min=1, help="Corrupted runs of each prompt.", rich_help_panel=MEASURES)] = 10,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Layers in a window; default 10, less if shallow.", rich_help_panel=MEASURES),
    ] = None,
    extra_token: Annotated[
        bool,
        typer.Option(
            "--extra-token", help="Corrupt the token after the subject too (figure 15).", rich_help_panel=MEASURES
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Noise in place of the embedding, not added to it.", rich_help_panel=MEASURES),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", rich_help_panel=MEASURES)] = 1,
    one_seed: Annotated[
        bool,
        typer.Option(
            "--one-seed", help="The same noise for every fact, as the paper's code does.", rich_help_panel=MEASURES
        ),
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the quadrature (ig).", rich_help_panel=MEASURES)] = 50,
    single: Annotated[
        bool, typer.Option("--single", help="Scale one token's state at a time (ig).", rich_help_panel=MEASURES)
    ] = False,
    texts: Annotated[
        str, typer.Option(help="Texts for the noise rules m and t.", rich_help_panel=MEASURES)
    ] = "embedded",
    out: Results = Path("results"),
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    max_memory: MaxMemory = None,
) -> None:
    """Trace facts through a model; stop at any moment and run it again to go on.

    Example: `counterfact trace --facts known.json --method causal --method severed --limit 200`
    """
    from counterfact import trace as trace_facts  # noqa: PLC0415

    memory = None if max_memory is None else bytes_of(max_memory)
    lm = open_model(model, device, dtype, precision)
    traced = 0
    with progress_bar("trace") as advance:
        for run in trace_facts(
            lm,
            facts,
            method or "causal",
            out,
            noise=noise,
            samples=samples,
            window=window,
            extra_token=extra_token,
            replace=replace,
            seed=seed,
            one_seed=one_seed,
            nodes=nodes,
            single=single,
            texts=texts,
            limit=limit,
            max_memory=memory,
            progress=advance,
        ):
            _say(run)
            traced += len(run.good)
    if not traced:
        raise Failed("no fact could be traced")


def _say(run: "TraceRun") -> None:
    from counterfact.tracing.averages import average, best_sites, severed_effects  # noqa: PLC0415
    from counterfact.tracing.causal import CAVEAT  # noqa: PLC0415
    from counterfact.tracing.cells import KINDS  # noqa: PLC0415

    right = [line for line in run.good if line["correct"]]
    bad = len(run.lines) - len(run.good)
    console.print(
        f"{run.folder}: facts traced: {len(run.good)}, {len(right)} answered rightly, {bad} could not be traced"
    )
    for line in [line for line in run.lines if "error" in line][:3]:
        console.print(f"  fact {line['known_id']}: {line['error']}", style="dim")
    if run.method == "severed" and right:
        for words in severed_effects([run.read(line) for line in right], run.first_layer):
            console.print(f"  at the last subject token, {words}")
    if run.method == "causal" and right:
        for words in best_sites({kind: average(run.facts(), kind) for kind in KINDS}):
            console.print(f"  {words}")
        console.print(CAVEAT, style="dim")


def figures(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders; every run of traces below them is drawn.")] = None,
    model: Annotated[str, typer.Option(help="Without folders: trace this model first, on what it knows.")] = "factlm",
    out: Annotated[
        Path, typer.Option(help="Folder of the figures; default: `figures` in each run.", file_okay=False)
    ] = Path("figures"),
    results: Results = Path("results"),
    limit: Annotated[int, typer.Option(min=1, help="Facts to trace, without folders.")] = 200,
    each: Annotated[int, typer.Option(min=0, help="Draw a picture of each of so many facts.")] = 10,
    compare: Annotated[
        bool, typer.Option("--compare", help="Draw the causal runs of the folders into one figure instead.")
    ] = False,
    device: Device = None,
) -> None:
    """Draw saved traces, in vector and PNG, with one page a run to browse facts; without folders, make them first.

    Example: `counterfact figures results --out figures`
    """
    from counterfact.tracing.compare import draw_comparison  # noqa: PLC0415
    from counterfact.tracing.figures import draw_run  # noqa: PLC0415
    from counterfact.tracing.store import find_runs  # noqa: PLC0415

    found = find_runs(runs) if runs else _trace_what_it_knows(model, results, limit, device)
    if compare:
        console.print(f"{draw_comparison(found, out)[-1]}")
        return
    for run in found:
        with progress_bar(f"drawing {run.method}") as advance:
            folder = out / run.folder.parent.name / run.folder.name
            page = draw_run(run, folder, each, partial(advance, "figures"))
        console.print(f"{page}")


def _trace_what_it_knows(model: str, results: Path, limit: int, device: str | None) -> "list[TraceRun]":
    from counterfact.api.tracing import trace_what_it_knows  # noqa: PLC0415

    done = []
    with progress_bar("trace") as advance:
        for run in trace_what_it_knows(open_model(model, device), results, limit=limit, progress=advance):
            _say(run)
            done.append(run)
    return done
