"""`counterfact sweep`: what an editor scores at each layer and token position."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import (
    Contexts,
    Device,
    Dtype,
    Limit,
    MaxMemory,
    MaxTexts,
    Model,
    Plugin,
    Precision,
    Seed,
    Set,
    Texts,
    console,
    load_plugins,
    memory_of,
    note_settings,
    open_dataset,
    open_model,
    progress_bar,
)
from counterfact.cli._tables import print_table
from counterfact.core.errors import BadInput, Failed
from counterfact.core.prompts import read_templates

if TYPE_CHECKING:
    from counterfact.api.sweeping import Sweep


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep")(sweep)


def sweep(
    dataset: Annotated[str, typer.Option(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    layers: Annotated[str, typer.Option(help="Layers from 0, as 0-5 or 3,17,30-40; default: all.")] = "all",
    position: Annotated[
        list[str] | None,
        typer.Option(help="subject_last, subject_first, subject_first_after_last or last; may be repeated."),
    ] = None,
    editor: Annotated[str, typer.Option(help="An editor that has a layer.")] = "rome",
    model: Model = "factlm",
    out: Annotated[Path, typer.Option(help="Folder of results; all goes to `sweep` in it.", file_okay=False)] = Path(
        "results"
    ),
    limit: Limit = 50,
    seed: Seed = 0,
    set_: Set = None,
    texts: Texts = "embedded",
    max_texts: MaxTexts = None,
    contexts: Contexts = None,
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    max_memory: MaxMemory = None,
    plugin: Plugin = None,
) -> None:
    """Evaluate an editor at each layer and position (figure 5): what a trace cannot tell. Goes on where it stopped.

    Example: `counterfact sweep --dataset datasets/counterfact --editor rome --layers 0-5 --position subject_last
    --position last --limit 50`
    """
    from counterfact import Options  # noqa: PLC0415
    from counterfact import sweep as sweep_editor  # noqa: PLC0415
    from counterfact.contracts.editors import settings_of  # noqa: PLC0415
    from counterfact.tracing.causal import CAVEAT  # noqa: PLC0415

    load_plugins(plugin)
    templates = None if contexts is None else read_templates(contexts)
    settings = settings_of([editor], set_ or ())[editor]
    data = open_dataset(dataset, limit)
    lm = open_model(model, device, dtype, precision)
    with progress_bar("sweep") as advance:
        found = sweep_editor(
            lm,
            data,
            editor,
            out,
            layers=parse_layers(layers, lm.n_layers),
            positions=position or (),
            settings=settings,
            texts=texts,
            max_texts=max_texts,
            contexts=templates,
            options=Options(seed=seed, max_memory=memory_of(lm, max_memory), progress=advance),
            announce=note_settings,
        )
    _print(found)
    console.print(", ".join(map(str, found.files)))
    console.print(CAVEAT, style="dim")
    if not any(point.n for point in found.points):
        raise Failed("no record was scored: see the reasons in the run.json files in `sweep`")


def parse_layers(text: str, n_layers: int) -> list[int]:
    """Read layers and ranges of layers.

    Raises:
        BadInput: not a list of layers, or the model has no such layer.

    >>> parse_layers("1,3-5", 6), parse_layers("all", 3)
    ([1, 3, 4, 5], [0, 1, 2])
    """
    found: set[int] = set()
    for part in (f"0-{n_layers - 1}" if text == "all" else text).split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(first) > int(last or first):
            raise BadInput(f"expected layers as 0-5 or 3,17,30-40, got {text!r}")
        found |= set(range(int(first), int(last or first) + 1))
    if max(found) >= n_layers:
        raise BadInput(f"expected layers from 0 to {n_layers - 1}, which the model has, got {max(found)}")
    return sorted(found)


def _print(sweep: "Sweep") -> None:
    rows, size = [], len(sweep.metrics)
    for start in range(0, len(sweep.points), size):
        row = sweep.points[start : start + size]
        values = ["–" if point.value is None else f"{point.value:.1f}" for point in row]
        rows.append([str(row[0].layer), row[0].position, *values])
    print_table(("layer", "position", *sweep.metrics), rows)
