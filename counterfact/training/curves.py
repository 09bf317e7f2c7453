"""The curves of a training as a picture: losses, edit success and drawdown against steps."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from counterfact.core.files import read_jsonl

TRAIN, HELD = "#7f9cc4", "#c1440e"
SMOOTH = 9
"""Updates that a point of a training curve is the median of: single batches jump."""


def draw_curves(curves: Path, picture: Path, title: str) -> None:
    """Draw `curves.jsonl` as a `.png`.

    Args:
        curves: of a training, finished or not.
        picture: to be written.
        title: says what was trained on what.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    lines = list(read_jsonl(curves))
    panels = (("edit", "edit loss (nats a label)"), ("locality", "locality KL (nats a token)"),
              ("success", "edit success"), ("drawdown", "drawdown"))  # fmt: skip
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    for number, (key, label) in enumerate(panels, 1):
        axes = figure.add_subplot(2, 2, number)
        steps, values = _series(lines, "train", key)
        axes.plot(steps, _smooth(values), color=TRAIN, lw=1.2, label=f"training (median of {SMOOTH})")
        steps, values = _series(lines, "validation", key)
        axes.plot(steps, values, "o-", color=HELD, ms=3, lw=1.4, label="validation")
        axes.set_ylabel(label)
        axes.set_xlabel("step")
        if key in {"edit", "locality"} and all(value > 0 for value in values):
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 1:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=130)


def _series(lines: Sequence[dict[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key]) for line in lines if line["kind"] == kind and line[key] is not None]
    return [step for step, _ in found], [value for _, value in found]


def _smooth(values: Sequence[float]) -> list[float]:
    """Median of the last few values at each place.

    >>> _smooth([1.0, 9.0, 1.0])
    [1.0, 5.0, 1.0]
    """
    return [median(values[max(0, place - SMOOTH + 1) : place + 1]) for place in range(len(values))]
