"""`counterfact sweep`: what an editor scores at each layer and token position."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table

from counterfact.cli._common import (
    Device,
    Dtype,
    Limit,
    MaxMemory,
    Model,
    Plugin,
    Precision,
    Seed,
    Set,
    Texts,
    console,
    load_plugins,
    memory_of,
    open_model,
)
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.tracing.sweeps import Point


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
    out: Annotated[Path, typer.Option(help="Folder of results; the figure goes to `sweep` in it.")] = Path("results"),
    limit: Limit = 50,
    seed: Seed = 0,
    set_: Set = None,
    texts: Texts = "embedded",
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
    from counterfact.cli.evaluate import run_editors  # noqa: PLC0415
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.contracts.editors import EDITORS  # noqa: PLC0415
    from counterfact.evaluation.options import Options  # noqa: PLC0415
    from counterfact.tracing.causal import CAVEAT  # noqa: PLC0415
    from counterfact.tracing.sweeps import write_sweep  # noqa: PLC0415

    load_plugins(plugin)
    positions = _positions(EDITORS.get(editor).settings.model_fields, editor, position)
    data = load_dataset(dataset, limit)
    lm = open_model(model, device, dtype, precision)
    options = Options(seed=seed, generate=False, max_memory=memory_of(lm, max_memory))
    points: list[Point] = []
    for layer in parse_layers(layers, lm.n_layers):
        for place in positions:
            given = [f"layer={layer}", *([] if place is None else [f"position={place}"]), *(set_ or [])]
            [run] = run_editors(lm, [editor], data, out, options, given, texts)
            points += _points(layer, place or "as the editor does", run.data, ("S", *data.benchmark.score_parts))
    console.print(_table(points, ("S", *data.benchmark.score_parts)))
    title = f"{editor} on {lm.name}, {data.label}, n = {max(point.n for point in points)}"
    folder = out / "sweep" / f"{lm.name.replace('/', '--')}@{lm.revision[:8]}-{editor}"
    console.print(", ".join(map(str, write_sweep(points, title, folder))), soft_wrap=True)
    console.print(CAVEAT, style="dim")


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


def _positions(fields: Any, editor: str, given: list[str] | None) -> list[str | None]:
    from counterfact.lm.model.encoding import SubjectRule  # noqa: PLC0415

    if "layer" not in fields:
        raise BadInput(f"{editor} has no setting `layer`, so there is nothing to sweep")
    if "position" not in fields:
        if given:
            raise BadInput(f"{editor} has no setting `position`; leave --position out")
        return [None]
    known = get_args(SubjectRule)
    if unknown := [name for name in given or () if name not in known]:
        raise BadInput(f"expected positions among {', '.join(known)}, got {unknown[0]!r}")
    return list(given or ["subject_last"])


def _points(layer: int, position: str, data: dict[str, Any], metrics: tuple[str, ...]) -> "list[Point]":
    from counterfact.tracing.sweeps import Point  # noqa: PLC0415

    points = []
    for name in metrics:
        found = data["metrics"][name]
        points.append(Point(layer, position, name, found["value"], found["low"], found["high"], found["n"]))
    return points


def _table(points: "list[Point]", metrics: tuple[str, ...]) -> Table:
    table = Table("layer", "position", *metrics, box=None)
    for start in range(0, len(points), len(metrics)):
        row = points[start : start + len(metrics)]
        values = ["–" if point.value is None else f"{point.value:.1f}" for point in row]
        table.add_row(str(row[0].layer), row[0].position, *values)
    return table
