"""`counterfact evaluate` and `score-texts`: run editors on a data set, or go on with what was interrupted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import (
    Device,
    Dtype,
    Json,
    Limit,
    MaxMemory,
    Model,
    Plugin,
    Precision,
    Seed,
    Set,
    Texts,
    bytes_of,
    console,
    load_plugins,
    memory_of,
    model_place,
    notes,
    open_model,
    progress_bar,
)
from counterfact.cli._runners import RayAddress, Runners, Slurm, TextWorkers, Threads, Workers, open_runner
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from counterfact.contracts.datasets import Dataset
    from counterfact.evaluation.options import Options
    from counterfact.evaluation.store import Run
    from counterfact.lm.model.loading import LM


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate")(evaluate)
    app.command("score-texts")(score_texts)


def evaluate(
    dataset: Annotated[str, typer.Option(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    model: Model = "factlm",
    editor: Annotated[list[str] | None, typer.Option(help="Name of an editor; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    benchmark: Annotated[
        str | None, typer.Option(help="What to measure by, as counterfact_plus; default: what the records are of.")
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    set_: Set = None,
    generate: Annotated[bool, typer.Option(help="Generate texts, for fluency and consistency.")] = True,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a text, its prompt included.")] = 100,
    defer_text_metrics: Annotated[bool, typer.Option(help="Keep texts; measure them later with score-texts.")] = False,
    network: Annotated[
        Path | None, typer.Option(help="Folder of the editor's trained network; default: where train leaves it.")
    ] = None,
    trained_records: Annotated[bool, typer.Option(help="Allow records that the network was trained on.")] = False,
    restart: Annotated[bool, typer.Option(help="Begin again instead of going on.")] = False,
    texts: Texts = "embedded",
    max_texts: Annotated[int | None, typer.Option(min=1, help="How many of these texts.")] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    runner: Runners = "local",
    workers: Workers = 1,
    threads: Threads = None,
    text_workers: TextWorkers = None,
    ray_address: RayAddress = None,
    slurm: Slurm = None,
    precision: Precision = "strict",
    max_memory: MaxMemory = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Edit a model with each editor on each record, and measure; stop at any moment and run it again to go on.

    Example: `counterfact evaluate --dataset datasets/counterfact --editor rome --editor ft --limit 100`

    On two GPUs: `counterfact evaluate --dataset datasets/counterfact --editor rome --runner ray --workers 2`
    """
    from dataclasses import replace  # noqa: PLC0415

    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.contracts.editors import EDITORS  # noqa: PLC0415
    from counterfact.evaluation.options import Options  # noqa: PLC0415
    from counterfact.evaluation.summary import terminal_tables  # noqa: PLC0415

    load_plugins(plugin)
    names = editor or ["rome"]
    for name in names:
        EDITORS.get(name)
    if (set_ or network) and len(names) > 1:
        raise BadInput(f"--set and --network go with one editor, got {', '.join(names)}; evaluate them one by one")
    data = load_dataset(dataset, limit, benchmark=benchmark)
    if runner == "local":
        lm = open_model(model, device, dtype, precision)
        memory = memory_of(lm, max_memory, length)
    else:
        # Where others compute, this process only needs to know which model it is; they see whether they can do it.
        lm = replace(open_model(model, "cpu", dtype), precision=precision)
        memory = bytes_of(max_memory) if max_memory else None
    options = Options(
        seed=seed,
        generate=generate,
        length=length,
        defer_text_metrics=defer_text_metrics,
        trained_records=trained_records,
        restart=restart,
        text_workers=text_workers,
        max_memory=memory,
    )
    networks = {names[0]: network} if network else {}
    with open_runner(
        runner,
        lm,
        model_place(model),
        workers=workers,
        threads=threads,
        device=device,
        dtype=dtype,
        precision=precision,
        plugins=plugin,
        ray_address=ray_address,
        slurm=slurm,
    ) as chosen:
        options = replace(options, runner=chosen)
        runs = run_editors(lm, names, data, out, options, set_ or [], texts, max_texts, networks)
    if as_json:
        console.print(canonical_json([run.data for run in runs]), soft_wrap=True, markup=False)
        return
    for table in terminal_tables(runs):
        console.print(table)
    for run in runs:
        console.print(f"{run.data['editor']['name']}: {run.folder}", style="dim")


def run_editors(
    lm: "LM",
    names: list[str],
    data: "Dataset",
    out: Path,
    options: "Options",
    overrides: list[str],
    texts: str,
    max_texts: int | None = None,
    networks: "Mapping[str, Path] | None" = None,
) -> "list[Run]":
    """Evaluate several editors, one after the other, with a progress bar for each pass."""
    from dataclasses import replace  # noqa: PLC0415

    from counterfact.contracts.editors import EDITORS, Resources  # noqa: PLC0415
    from counterfact.core.texts import load_texts  # noqa: PLC0415
    from counterfact.evaluation.harness import evaluate as evaluate_one  # noqa: PLC0415

    runs = []
    chosen = [(EDITORS.get(name), EDITORS.get(name).resolve(lm.name, lm.n_layers, overrides)) for name in names]
    resources = Resources(
        second_moment_texts=load_texts(texts),
        second_moment_max_texts=max_texts,
        networks=networks or {},
        seed=options.seed,
    )
    for spec, resolved in chosen:
        notes.print(f"{spec.name} on {data.label}: {resolved.source}", style="dim", soft_wrap=True)
        with progress_bar(spec.name) as advance:
            told = replace(options, progress=advance)
            runs.append(evaluate_one(lm, spec, resolved, data, out, resources=resources, options=told))
    return runs


def score_texts(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Fill in fluency and consistency of a run that was evaluated with --defer-text-metrics.

    Example: `counterfact score-texts results/counterfact@1/gpt2-xl@15ea56d/rome-3f9c21ab`
    """
    from counterfact.evaluation.rescore import score_texts as fill  # noqa: PLC0415
    from counterfact.evaluation.summary import terminal_tables  # noqa: PLC0415

    for table in terminal_tables([fill(run)]):
        console.print(table)
