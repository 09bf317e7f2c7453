"""What several commands share: the argument types, the model by name, the console."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from counterfact.cli._progress import Advance, Pace
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json
from counterfact.core.registry import load_plugin

if TYPE_CHECKING:
    from counterfact.contracts.datasets import Dataset
    from counterfact.core.settings import Resolved
    from counterfact.lm.model.language_model import LM


def _console(*, stderr: bool) -> Console:
    """Return a console that prints a text as it is: brackets are no markup, and only the terminal breaks its lines."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=stderr)


console = _console(stderr=False)
notes = _console(stderr=True)
"""For what a script that reads the output does not want."""

EDITS, MEASURES, MACHINE, PROGRAM = "Edits", "What is measured", "Machine", "Program"
"""Groups of options in the help of a command."""
SOURCES, SERVERS, RECORDS = "Sources", "Servers", "Records"

Model = Annotated[str, typer.Option(help="A folder, a GGUF file, a Hub id, or a model by name: factlm, smollm2.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ... By default a GPU where there is one.", rich_help_panel=MACHINE)
]
DtypeName = Literal["float32", "bfloat16", "float64"]
Dtype = Annotated[DtypeName, typer.Option(help="Precision of the weights.", rich_help_panel=MACHINE)]
PrecisionName = Literal["strict", "tf32", "bf16"]
Precision = Annotated[
    PrecisionName,
    typer.Option(help="Of float32 products: `tf32` on a GPU, `bf16` on a processor.", rich_help_panel=MACHINE),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="As 8GB or 512MB: cut work into batches that are estimated to need no more.", rich_help_panel=MACHINE
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="How many records, from the first.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting, as name=value; editor.name=value for one of several; may be repeated.",
        rich_help_panel=EDITS,
    ),
]
Engine = Annotated[
    Literal["batched", "plain"],
    typer.Option(
        help="How edits are computed: many at once, or `plain`, one at a time by whole forward passes.",
        rich_help_panel=EDITS,
    ),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        help="A Python file with an editor, a metric, a benchmark ...; may be repeated.", rich_help_panel=PROGRAM
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say where settings come from, and what else a run keeps.", rich_help_panel=PROGRAM
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.", rich_help_panel=PROGRAM)]
Texts = Annotated[
    str,
    typer.Option(
        help="Texts for second moments: `embedded`, a .txt, .jsonl(.gz) or .parquet file, a folder, a Hub id as "
        "name:config@revision; with #1 after it in random order; or a file of second moments.",
        rich_help_panel=EDITS,
    ),
]
MaxTexts = Annotated[
    int | None,
    typer.Option("--max-texts", min=1, help="How many of these texts, from the first.", rich_help_panel=EDITS),
]

Contexts = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="Context templates for ROME, one a line, each with {} for the prompt; default: texts of the model's own.",
        rich_help_panel=EDITS,
    ),
]


def open_model(
    name: str, device: str | None = None, dtype: DtypeName = "float32", precision: PrecisionName = "strict"
) -> "LM":
    """Load a model, without the progress bars of the library that reads it."""
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    from counterfact.lm.model.loading import load_lm  # noqa: PLC0415

    disable_progress_bar()  # type: ignore[no-untyped-call]
    return load_lm(name, device=device, dtype=dtype, precision=precision, announce=note)


def note(message: str) -> None:
    """Say something that a script which reads the output does not want."""
    notes.print(message, style="dim")


@cache
def note_once(message: str) -> None:
    """Say something once, however often the program comes by it."""
    note(message)


def note_settings(editor: str, resolved: "Resolved[Any]", *, verbose: bool = False) -> None:
    """Say what settings an editor has, if any; with `verbose`, where each value comes from."""
    if fields := type(resolved.settings).model_fields:
        note_once(f"{editor}: {resolved.source if verbose else resolved.summary}")
        if "layer" in fields and "layer" not in resolved.given and not resolved.model:
            note_once(f"{editor}: which layer suits this model: counterfact sweep --editor {editor} --dataset FILE")


def note_moment(editor: str, provenance: Mapping[str, Any], *, verbose: bool = False) -> None:
    """Say what second moment an editor rests on, if any, and what so few tokens do to its edits."""
    if (moment := provenance.get("second_moment")) is None:
        return
    error, tokens = moment["sampling_error"], f"second moment from {moment['count']:,} tokens"
    if not error:
        note_once(f"{editor}: {tokens} of {moment['name']}; its error is not known")
    elif verbose:
        note_once(f"{editor}: {tokens} of {moment['name']}; {error_words(error, complete=moment['complete'])}")
    else:
        note_once(f"{editor}: {tokens}; an edit is within about {error['update']:.1%} of what endless text gives")


def print_json(value: object) -> None:
    """Print a value as one line of JSON, for scripts."""
    typer.echo(canonical_json(value))


def open_dataset(source: str, limit: int | None = None, benchmark: str | None = None, *, beyond: int = 0) -> "Dataset":
    """Read a data set, and say whose form it has and how it was read."""
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415

    data = load_dataset(source, limit, benchmark=benchmark, beyond=beyond)
    for line in (data.described, *data.notes):
        note(line)
    return data


def memory_of(lm: "LM", given: str | None, length: int = 100) -> float | None:
    """Return the bytes that `--max-memory` gives, and say what the plan that follows from it is estimated to need.

    Raises:
        BadInput: no number of bytes, or not even one record at a time fits.
    """
    from counterfact.lm.planning.batch_plan import Shape  # noqa: PLC0415
    from counterfact.lm.planning.memory import needs, plan_within, say  # noqa: PLC0415

    if given is None:
        return None
    memory, shape = bytes_of(given), Shape.of(lm)
    plan = plan_within(shape, memory, length)
    sizes = ", ".join(f"{name} {size}" for name, size in vars(plan).items() if name in {"chunk", "generation_rows"})
    notes.print(
        f"plan for {say(memory)}: {plan.tokens_per_batch} tokens a batch, {sizes}; estimated to need "
        f"{say(needs(shape, plan, length).total)}",
        style="dim",
    )
    return memory


def bytes_of(text: str) -> float:
    """Read a number of bytes with its unit.

    Raises:
        BadInput: it is none.

    >>> bytes_of("8GB"), bytes_of("1.5 GiB"), bytes_of("512mb")
    (8000000000.0, 1610612736.0, 512000000.0)
    """
    found = re.fullmatch(r"([\d.]+)\s*([kmgt]?)(i?)b?", text.strip().lower())
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or number <= 0:
        raise BadInput(f"expected a memory size as 8GB, 1.5GiB or 512MB, got {text!r}")
    return number * (1024.0 if found[3] else 1000.0) ** " kmgt".index(found[2] or " ")


def load_plugins(paths: list[Path] | None) -> None:
    """Load the files given with `--plugin`."""
    for path in paths or []:
        load_plugin(path)


def say_first_tokens(editor: str, edited: Sequence[int], requests: int) -> None:
    """Say, once for a run, how many requests are edited at a prompt's first token, if any are."""
    if edited:
        notes.print(
            f"{editor}: {len(edited)} of {requests} requests edit the first token of their prompt, where many "
            "models keep an attention sink and an edit does not do what it does elsewhere (docs/second-moments.md)",
            style="yellow",
        )


def error_words(sampling: Mapping[str, float], *, complete: bool) -> str:
    """Say what so few tokens do to an edit."""
    whole = "endless text of this kind" if complete else "the whole pass"
    return (
        f"direction of an edit: cosine to that of {whole} about {sampling['cosine']:.4f}; "
        f"its update within about {sampling['update']:.1%} of its size"
    )


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show a bar on a terminal, else a line now and then; yields the function that takes in the progress."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    terminal = notes.is_terminal
    pace = Pace(lambda line: notes.print(f"{title}: {line}"), go_on=not terminal)
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True, disable=not terminal) as bars:
        task = bars.add_task(title, total=None)

        def advance(stage: str, done: int, total: int | None = None, note: str = "") -> None:
            label = f"{title}: {stage}" + (f", {note}" if note else "")
            bars.update(task, description=label, completed=done, total=total)
            pace.tell(stage, done, total, note)

        yield advance
