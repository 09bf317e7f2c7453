"""Draw what an editor scores by layer and token position, to hold a trace against (figure 5).

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, figure 5.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counterfact.core.files import write_json
from counterfact.tracing.plots import LINES, new_figure, save


@dataclass(frozen=True)
class Point:
    """One metric of one run."""

    layer: int
    position: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int


def write_sweep(points: Sequence[Point], title: str, folder: Path) -> list[Path]:
    """Write the points as `sweep.json` and draw them: a panel for each metric, a line for each position.

    Returns:
        The files written.
    """
    write_json(folder / "sweep.json", {"title": title, "points": [asdict(point) for point in points]})
    metrics = list(dict.fromkeys(point.metric for point in points))
    positions = list(dict.fromkeys(point.position for point in points))
    figure, panels = new_figure(3.4 * len(metrics) + 0.6, 3.6, 1, len(metrics), sharey=True)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for position, (colour, dash, mark) in zip(positions, LINES, strict=False):
            chosen = [point for point in points if (point.metric, point.position) == (metric, position)]
            _line(axes, chosen, color=colour, linestyle=dash, marker=mark, label=position.replace("_", " "))
        axes.set_title(metric, fontsize=10)
        axes.set_xlabel("layer edited")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_ylim(0, 103)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel("score x100")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    figure.suptitle(f"{title} (bands: 95 %)", fontsize=10)
    return [folder / "sweep.json", *save(figure, folder, "sweep")]


def _line(axes: Any, points: Sequence[Point], **look: Any) -> None:
    there = sorted((point for point in points if point.value is not None), key=lambda point: point.layer)
    layers = [point.layer for point in there]
    axes.plot(layers, [point.value for point in there], markersize=4, linewidth=1.4, **look)
    banded = [point for point in there if point.low is not None and point.high is not None]
    bounds = ([point.low for point in banded], [point.high for point in banded])
    axes.fill_between([point.layer for point in banded], *bounds, color=look["color"], alpha=0.15, linewidth=0)
