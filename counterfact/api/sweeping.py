"""Evaluate an editor at each layer and token position, and draw its scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from counterfact.api.evaluating import evaluate
from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS
from counterfact.core.errors import BadInput
from counterfact.core.settings import Resolved
from counterfact.evaluation.task import Options
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.language_model import LM
from counterfact.tracing.sweeps import Point, write_sweep


@dataclass(frozen=True)
class Sweep:
    """What an editor scores by layer and position."""

    metrics: tuple[str, ...]
    """Symbols of the metrics: the overall score, then its parts."""
    points: list[Point] = field(default_factory=list)
    """One for each layer, position and metric, in this order."""
    files: list[Path] = field(default_factory=list)
    """The points as JSON, and the figure."""


def sweep(
    lm: LM,
    dataset: Dataset | str | Path,
    editor: str = "rome",
    out: str | Path = "results",
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    options: Options | None = None,
    announce: Callable[[str, Resolved[Any]], None] | None = None,
) -> Sweep:
    """Evaluate an editor at each layer and position, without generated texts; what an earlier call began goes on.

    Args:
        lm: the model.
        dataset: a data set, or what `load_dataset` reads.
        editor: name of an editor that has a layer.
        out: folder of results; runs and the figure go to `sweep` in it, apart from evaluations.
        layers: layers, from 0; by default all.
        positions: token positions, for an editor that has one; by default the last token of the subject.
        settings: other settings that differ from the published ones.
        texts: texts for second moments of keys, for editors that need them.
        max_texts: how many of these texts.
        contexts: context templates, the bare `{}` first, for editors that take them; by default the model's own texts.
        options: seed and progress; nothing is generated, whatever they say.
        announce: told, before each run, its editor, the settings in force and where they come from.

    Raises:
        BadInput: the editor has no layer, the model lacks a layer, or a position is unknown.
    """
    chosen, place = _positions(editor, positions), Path(out) / "sweep"
    if swept := sorted({"layer", "position"} & set(settings or ())):
        raise BadInput(f"{swept[0]} is swept, so it cannot be set too; leave it out of the settings")
    wanted = range(lm.n_layers) if layers is None else layers
    if missing := [layer for layer in wanted if not 0 <= layer < lm.n_layers]:
        raise BadInput(f"expected layers from 0 to {lm.n_layers - 1}, which the model has, got {missing[0]}")
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    options = replace(options or Options(), kind="sweep", generate=False)
    metrics, points = ("S", *data.benchmark.score_parts), []
    for layer in wanted:
        for position in chosen:
            given = {"layer": layer, **({} if position is None else {"position": position}), **(settings or {})}
            [run] = evaluate(
                lm,
                data,
                editor,
                place,
                settings=given,
                texts=texts,
                max_texts=max_texts,
                contexts=contexts,
                options=options,
                announce=announce,
            )
            points += [_point(layer, position, name, run.data["metrics"][name]) for name in metrics]
    title = f"{editor} on {lm.name}, {data.label}, n = {max(point.n for point in points)}"
    folder = place / f"{lm.name.replace('/', '--')}@{lm.revision[:8]}-{editor}"
    return Sweep(metrics, points, write_sweep(points, title, folder))


def _positions(editor: str, given: Sequence[str]) -> list[str | None]:
    fields = EDITORS.get(editor).settings.model_fields
    if "layer" not in fields:
        raise BadInput(f"{editor} has no setting `layer`, so there is nothing to sweep")
    if "position" not in fields:
        if given:
            raise BadInput(f"{editor} has no setting `position`, so give none")
        return [None]
    known = get_args(SubjectRule)
    if unknown := [name for name in given if name not in known]:
        raise BadInput(f"expected positions among {', '.join(known)}, got {unknown[0]!r}")
    return list(given or ["subject_last"])


def _point(layer: int, position: str | None, metric: str, found: Mapping[str, Any]) -> Point:
    where = position or "as the editor does"
    return Point(layer, where, metric, found["value"], found["low"], found["high"], found["n"])
