"""`counterfact evaluate`: run editors on a data set, or go on with what was interrupted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterfact.cli._common import (
    EDITS,
    MEASURES,
    PROGRAM,
    Contexts,
    Device,
    Dtype,
    Engine,
    Json,
    Limit,
    MaxMemory,
    MaxTexts,
    Model,
    Plugin,
    Precision,
    Seed,
    Set,
    Texts,
    Verbose,
    bytes_of,
    console,
    load_plugins,
    memory_of,
    note_moment,
    note_settings,
    notes,
    open_dataset,
    open_model,
    print_json,
    progress_bar,
    say_first_tokens,
)
from counterfact.cli._runners import RayAddress, Runners, Slurm, TextWorkers, Threads, Workers, open_runner
from counterfact.cli._tables import print_tables
from counterfact.core.errors import BadInput, Failed
from counterfact.core.places import model_place
from counterfact.core.prompts import read_templates
from counterfact.core.records import BadRecord

if TYPE_CHECKING:
    from counterfact.core.settings import Resolved
    from counterfact.evaluation.schedule import Schedule
    from counterfact.evaluation.store import Run

LETTERS = "letters"
"""The judge that asks a model, where no other is named."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    dataset: Annotated[str, typer.Option(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    model: Model = "factlm",
    editor: Annotated[list[str] | None, typer.Option(help="Name of an editor; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.", file_okay=False)] = Path("results"),
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="What to measure by: wild, choice, canary, …; default: what the records are of.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Who judges what the model says, for --benchmark wild_judged; by default `letters`.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            help="The model that the judge asks: a folder, a Hub id, or a name, as --model.", rich_help_panel=MEASURES
        ),
    ] = None,
    limit: Limit = None,
    known: Annotated[
        bool,
        typer.Option(
            "--known",
            help="Only facts that the unedited model knows; `summarize` shows both kinds.",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    edits_at_once: Annotated[
        int,
        typer.Option(
            "--edits-at-once",
            min=1,
            help="How many facts share one edit, for editors that write many.",
            rich_help_panel=EDITS,
        ),
    ] = 1,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Edit on top of earlier edits, and measure right after and later.",
            rich_help_panel=EDITS,
        ),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --sequential: how many groups are edited; the rest is left alone.", rich_help_panel=EDITS
        ),
    ] = None,
    measure_after: Annotated[
        str | None,
        typer.Option(
            help="With --sequential: numbers of edits after which all are measured; default: 1,10,100,…",
            rich_help_panel=EDITS,
        ),
    ] = None,
    orders: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --sequential: how many orders of the records to edit in, a run for each.",
            rich_help_panel=EDITS,
        ),
    ] = 1,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", help="With --sequential: go on where the model has collapsed.", rich_help_panel=EDITS
        ),
    ] = False,
    seed: Seed = 0,
    set_: Set = None,
    generate: Annotated[
        bool, typer.Option(help="Generate texts, for fluency and consistency.", rich_help_panel=MEASURES)
    ] = True,
    length: Annotated[
        int, typer.Option(min=2, help="Tokens of a text, its prompt included.", rich_help_panel=MEASURES)
    ] = 100,
    stop_at_end: Annotated[
        bool,
        typer.Option(
            "--stop-at-end",
            help="End a text at the model's end token; the paper's protocol goes on.",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template",
            help="Ask everything as a user's message, by the model's chat template.",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    defer_text_metrics: Annotated[
        bool,
        typer.Option(
            "--defer-text-metrics", help="Keep texts; measure them later with score-texts.", rich_help_panel=PROGRAM
        ),
    ] = False,
    network: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the editor's trained network; default: where train leaves it.", rich_help_panel=EDITS
        ),
    ] = None,
    trained_records: Annotated[
        bool,
        typer.Option("--trained-records", help="Allow records that the network was trained on.", rich_help_panel=EDITS),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again instead of going on.", rich_help_panel=PROGRAM)
    ] = False,
    texts: Texts = "embedded",
    max_texts: MaxTexts = None,
    contexts: Contexts = None,
    engine: Engine = "batched",
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
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Edit a model with each editor on each record, and measure; stop at any moment and run it again to go on.

    Example: `counterfact evaluate --dataset datasets/counterfact --editor rome --editor ft --limit 100`

    Ten facts in one edit: `counterfact evaluate --dataset datasets/counterfact --editor memit --edits-at-once 10`

    Twenty times fifty, one group after another: `counterfact evaluate --dataset datasets/counterfact --editor memit
    --edits-at-once 50 --sequential --steps 20`

    What the model says by itself, by a judge: `counterfact evaluate --dataset datasets/counterfact --editor rome
    --benchmark wild_judged --judge-model smollm2`

    On two GPUs: `counterfact evaluate --dataset datasets/counterfact --editor rome --runner ray --workers 2`
    """
    from dataclasses import replace  # noqa: PLC0415

    from counterfact import Options  # noqa: PLC0415
    from counterfact import evaluate as evaluate_editors  # noqa: PLC0415
    from counterfact.contracts.editors import edited_at_first_token, settings_of  # noqa: PLC0415
    from counterfact.evaluation.schedule import POWERS, Schedule  # noqa: PLC0415
    from counterfact.evaluation.task import UNTOUCHED, JudgeSource  # noqa: PLC0415

    load_plugins(plugin)
    templates = None if contexts is None else read_templates(contexts)
    names = editor or ["rome"]
    settings_of(names, set_ or ())
    if network and len(names) > 1:
        raise BadInput(f"--network is the folder of one editor's network, got {', '.join(names)}; evaluate it alone")
    schedule = Schedule(
        edits_at_once,
        sequential=sequential,
        measure_after=POWERS if measure_after is None else _numbers(measure_after),
        keep_going=keep_going,
    )
    beyond = UNTOUCHED if sequential else 0
    data = open_dataset(dataset, _records(schedule, steps, limit), benchmark=benchmark, beyond=beyond)
    if runner == "local":
        lm = open_model(model, device, dtype, precision)
        memory = memory_of(lm, max_memory, length)
    else:
        # Where others compute, this process only needs to know which model it is; they see whether they can do it.
        lm = replace(open_model(model, "cpu", dtype), precision=precision)
        memory = bytes_of(max_memory) if max_memory else None
    judged = JudgeSource.of(judge or LETTERS, judge_model, device) if judge or judge_model else None
    options = Options(
        seed=seed,
        judge=judged,
        schedule=schedule,
        untouched=data.beyond,
        generate=generate,
        length=length,
        stop_at_end=stop_at_end,
        chat_template=chat_template,
        defer_text_metrics=defer_text_metrics,
        trained_records=trained_records,
        restart=restart,
        text_workers=text_workers,
        max_memory=memory,
    )
    requests = [record.request for record in data.records if not isinstance(record, BadRecord)]

    def told(editor: str, resolved: "Resolved[Any]") -> None:
        note_settings(editor, resolved, verbose=verbose)
        say_first_tokens(editor, edited_at_first_token(lm, resolved.settings, requests), len(requests))

    with (
        open_runner(
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
        ) as chosen,
        progress_bar("evaluating") as advance,
    ):
        runs = evaluate_editors(
            lm,
            data,
            names,
            out,
            settings=set_ or (),
            texts=texts,
            max_texts=max_texts,
            contexts=templates,
            known=known,
            networks={names[0]: network} if network else None,
            engine=engine,
            orders=orders,
            options=replace(options, runner=chosen, progress=advance),
            announce=told,
        )
    if as_json:
        print_json([run.data for run in runs])
    else:
        print_tables(runs.tables, "terminal")
        for run in runs:
            console.print(f"{run.editor}: {run.folder}", style="dim")
            note_moment(run.editor, run.data["editor"]["provenance"], verbose=verbose)
    say_failures(runs)


def _numbers(text: str) -> tuple[int, ...]:
    """Read numbers of edits, with commas between them."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise BadInput(f"expected numbers of edits as 1,10,100, got {text!r}") from error


def _records(schedule: "Schedule", steps: int | None, limit: int | None) -> int | None:
    """Return how many records to read, where that is said."""
    if steps is None:
        return limit
    if not schedule.sequential:
        raise BadInput("--steps says how many groups are edited one after another: add --sequential")
    if limit is not None:
        raise BadInput("--steps and --limit both say how many records are edited: leave one out")
    return steps * schedule.edits_at_once


def say_failures(runs: "Sequence[Run]") -> None:
    """Say how many records failed in each run, and why.

    Raises:
        Failed: of no record is there a score.
    """
    for run in runs:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for each in run.data["n"]["reasons"]:  # those that differ in numbers and names alone are one
            groups.setdefault((each["stage"], re.sub(r"\d+|'[^']*'", "", each["reason"])), []).append(each)
        for (stage, _), alike in groups.items():
            told = f"{sum(each['n'] for each in alike):,} of {run.data['n']['asked']:,} records failed at {stage}"
            like = " (the others alike)" if len(alike) > 1 else ""
            notes.print(f"{run.editor}: {told}: {alike[0]['reason']}{like}", style="yellow")
    if not any(run.data["n"]["scored"] for run in runs):
        raise Failed("no record was scored")
