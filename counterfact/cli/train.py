"""`counterfact train`: train the networks of MEND and KE, or go on with a training that was interrupted."""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from counterfact.cli._common import (
    EDITS,
    Device,
    Dtype,
    Json,
    MaxTexts,
    Model,
    Precision,
    Seed,
    Set,
    console,
    note,
    note_settings,
    open_dataset,
    open_model,
    print_json,
    progress_bar,
)
from counterfact.cli._tables import print_table
from counterfact.core.errors import BadInput, Failed

if TYPE_CHECKING:
    from counterfact.core.settings import Resolved

TaskName = Literal["text", "counterfact", "zsre", "neighbors"]
STANDARD = (
    ("mend", "text"),
    ("mend", "counterfact"),
    ("mend", "zsre"),
    ("mend", "neighbors"),
    ("ke", "text"),
    ("ke", "counterfact"),
    ("ke", "zsre"),
)
"""What `--all` trains: the paper's six, and ours."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    editor: Annotated[str | None, typer.Argument(help="mend or ke.")] = None,
    data: Annotated[TaskName, typer.Option(help="What to train on; `neighbors`: see docs.")] = "counterfact",
    model: Model = "factlm",
    dataset: Annotated[
        str | None, typer.Option(help="Records: a built folder, a .json file, a Hub id. By default the embedded ones.")
    ] = None,
    texts: Annotated[
        str,
        typer.Option(help="Plain texts: `embedded`, a .txt/.jsonl file, a folder, a Hub id.", rich_help_panel=EDITS),
    ] = ("embedded"),
    max_texts: MaxTexts = None,
    reserve: Annotated[
        int,
        typer.Option(
            min=0,
            help="First CounterFact records, for evaluation; their subjects are not trained on.",
            rich_help_panel=EDITS,
        ),
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="The network's folder; by default where `evaluate` looks.", file_okay=False)
    ] = None,
    seed: Seed = 0,
    set_: Set = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again instead of going on.")] = False,
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    autocast: Annotated[bool, typer.Option("--autocast", help="Run the model's products in bfloat16.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Train all editors on all data, several at a time.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="With --all: trainings at a time, a thread each.")] = 2,
    as_json: Json = False,
) -> None:
    """Train the network of an editor for a model; what was trained before is taken as it is.

    Example: `counterfact train mend --data counterfact --model gpt2-xl --dataset counterfact.json --reserve 7500`
    """
    if everything:
        if editor or set_ or out:
            raise BadInput(
                "--all trains all editors with their own settings: give neither an editor, nor --set or --out"
            )
        train_all(jobs, sys.argv[2:])
        return
    if editor is None:
        raise BadInput("expected an editor to train, mend or ke; or --all")
    from counterfact import train as train_editor  # noqa: PLC0415
    from counterfact.training.trainer import Options  # noqa: PLC0415

    lm, steps = open_model(model, device, dtype, precision), None

    def announce(resolved: "Resolved[Any]") -> None:
        nonlocal steps
        steps = resolved.settings.steps
        note_settings(f"{editor} for {lm.name} on {data}", resolved)

    with progress_bar(f"{editor} {data}") as advance:
        options = Options(
            seed=seed,
            autocast=autocast,
            restart=restart,
            watch=lambda line: advance("steps", line["step"], steps, _line(line)),
        )
        trained = train_editor(
            lm,
            editor,
            data,
            dataset=None if dataset is None else open_dataset(dataset),
            texts=texts,
            max_texts=max_texts,
            reserve=reserve,
            out=out,
            settings=set_ or (),
            options=options,
            announce=announce,
        )
    info = trained.info
    for reason, count in (info["data"].get("dropped") or {}).items():
        note(f"left out of training: {count:,}, reason: {reason}")
    if as_json:
        shown = {key: value for key, value in info.items() if key != "trained_on"}
        print_json(shown)
        return
    _print(info)
    console.print(str(trained.folder), style="dim")


def _line(line: Mapping[str, Any]) -> str:
    shown = [("edit", ".3f"), ("locality", ".4f"), ("success", ".0%"), ("drawdown", ".1%")]
    parts = [f"{name} {line[name]:{form}}" for name, form in shown if line.get(name) is not None]
    speed = f"{line['edits_per_second']:.0f} edits/s" if line.get("edits_per_second") else ""
    return "  ".join([str(line["kind"]), *parts, f"skipped {line['skipped']}", speed])


def _print(info: Mapping[str, Any]) -> None:
    rows = []
    for name, key, step in (("no edit", "unedited", "–"), ("untrained", "untrained", "0"), ("best", "validation", "")):
        row = [f"{value:.4f}" for value in info[key].values()]
        rows.append([name, step or str(info["step"]), *row])
    print_table(("validation", "step", *info["validation"]), rows, title=f"{info['editor']} on {info['task']}")


def train_all(jobs: int, arguments: list[str]) -> None:
    """Train the standard networks in processes of one thread each.

    Args:
        jobs: processes at a time.
        arguments: options of the command that hold for all of them.

    Raises:
        Failed: a training failed; the others are done.
    """
    from counterfact.api.training import records_of  # noqa: PLC0415

    rest = [word for word in arguments if word != "--all"]
    one_thread = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

    def run(variant: tuple[str, str]) -> tuple[tuple[str, str], int, str]:
        name, data = variant
        command = [sys.executable, "-m", "counterfact.cli.main", "train", name, "--data", data, *rest]
        done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
        return variant, done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr

    failed = []
    records_of("counterfact", None)  # once, before the processes would each begin to build it
    with ThreadPoolExecutor(jobs) as pool:
        for (name, data), code, output in pool.map(run, STANDARD):
            console.print(output.rstrip())
            failed += [f"{name} on {data}"] if code else []
    if failed:
        raise Failed(f"{len(failed)} of {len(STANDARD)} trainings failed: {', '.join(failed)}")
