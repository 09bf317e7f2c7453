"""Draw traces: maps of tokens by layers, bars of severed paths, lines of averages with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterfact.tracing.averages import CLASSES, OF_SUBJECT, Average, Averages, Numbers

MAPS = {"state": "Purples", "mlp": "Greens", "attn": "Reds", "severed_mlp": "Greens", "severed_attn": "Reds"}
"""One hue for each kind, as in the paper; within a map lightness alone tells values apart."""
NAMES = {
    "state": "a single state",
    "mlp": "MLP",
    "attn": "attention",
    "severed_mlp": "the same, MLPs severed",
    "severed_attn": "the same, attentions severed",
}
EFFECT, PROBABILITY = "effect on p(o), points", "p(o), %"
"""What axes and colour bars are called: an effect is a difference of probabilities, shown times 100."""
BARS = {"state": ("#6a51a3", ""), "severed_attn": ("#d55e00", "//"), "severed_mlp": ("#009e73", "..")}
LINES = (
    ("#0072b2", "-", "o"),
    ("#56b4e9", "--", "s"),
    ("#d55e00", "-", "D"),
    ("#e69f00", "--", "^"),
    ("#999999", ":", "v"),
    ("#000000", "-.", "x"),
)
"""Colours of Okabe and Ito, and a dash and a mark of its own for each class of tokens."""


def new_figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """Return a figure and its panels, an array (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Save a figure as PDF and PNG, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    figure.savefig(paths[0], metadata={"CreationDate": None})
    figure.savefig(paths[1], dpi=160)
    return paths


def token_labels(line: Mapping[str, Any], tokens: Sequence[int]) -> list[str]:
    """Return what stands beside the rows: the tokens, the subject's with a star.

    >>> token_labels({"tokens": ["Oslo", " is"], "subject_range": [0, 1]}, [0, 1])
    ['Oslo*', ' is']
    """
    begin, end = line["subject_range"]
    return [shown(line["tokens"][token]) + ("*" if begin <= token < end else "") for token in tokens]


def shown(text: str) -> str:
    """Return a text as a figure can show it: what cannot be printed is spelled out, a dollar begins no formula.

    >>> shown(" a$"), shown("\\n")
    (' a\\\\$', '\\\\n')
    """
    return (text if text.isprintable() else repr(text)[1:-1]).replace("$", r"\$")


def heat_map(
    figure: Any,
    axes: Any,
    values: Numbers,
    labels: Sequence[str],
    kind: str,
    *,
    low: float,
    high: float | None = None,
    unit: str = "",
) -> None:
    """Draw one map, tokens down and layers across.

    Args:
        figure, axes: where.
        values: (tokens, layers).
        labels: one a token.
        kind: chooses the hue.
        low: the value that has no colour.
        high: the value that is darkest, by default the largest.
        unit: beside the colour bar.
    """
    top = float(values.max()) if high is None else high
    image = axes.imshow(
        values, cmap=MAPS[kind], vmin=low, vmax=max(top, low + 1e-9), aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    layers = values.shape[1]
    step = 1 if layers <= 8 else 5
    axes.set_xticks(range(0, layers, step), [str(layer) for layer in range(0, layers, step)], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.set_label(unit, fontsize=8)
    if unit in (EFFECT, PROBABILITY):
        times_100(bar.ax.yaxis)


def times_100(axis: Any) -> None:
    """Let an axis of probabilities, or of their differences, be read in per cent or points."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")


def severed_bars(
    axes: Any,
    effects: Mapping[str, Numbers],
    halves: Mapping[str, Numbers] | None = None,
    *,
    first: int = 0,
    small: bool = False,
) -> None:
    """Draw the indirect effects at one token, ordinary and with paths severed, side by side at each layer.

    Args:
        axes: where.
        effects: (layers,) by kind.
        halves: half intervals of the same shape.
        first: the layer of the first bars; -1 is the embedding, shown as E.
        small: leave out the labels, for a grid.
    """
    width = 0.8 / len(effects)
    for place, (kind, values) in enumerate(effects.items()):
        colour, hatch = BARS[kind]
        at = first + np.arange(len(values)) + (place - (len(effects) - 1) / 2) * width
        axes.bar(at, values, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3, label=NAMES[kind])
        if halves is not None:
            axes.errorbar(at, values, yerr=halves[kind], fmt="none", color="#222222", capsize=1.5, linewidth=0.8)
    axes.axhline(0, color="#444444", linewidth=0.7)
    last = first + len(next(iter(effects.values())))
    ticks = [*range(first, 0), *range(0, last, 1 if last <= 12 else 5)]
    axes.set_xticks(ticks, ["E" if layer < 0 else str(layer) for layer in ticks])
    plain_axes(axes, small)
    if not small:
        axes.set_xlabel("layer after which the state is restored" + ("; E: the embedding" if first < 0 else ""))
        axes.set_ylabel(EFFECT)
    times_100(axes.yaxis)


def band(axes: Any, layers: Any, found: Average, style: tuple[str, str, str], label: str) -> None:
    """Draw one line with the band of its 95 % interval.

    Args:
        axes: where.
        layers: (layers,), where the values stand.
        found: the values.
        style: colour, dash and mark.
        label: in the legend.
    """
    colour, dash, mark = style
    every = max(1, len(layers) // 12)
    axes.plot(
        layers,
        found.mean,
        color=colour,
        linestyle=dash,
        marker=mark,
        markersize=3.5,
        linewidth=1.4,
        label=label,
        markevery=every,
    )
    low, high = (np.clip(found.mean + side * found.half, -1, 1) for side in (-1, 1))
    axes.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
    times_100(axes.yaxis)


def class_lines(axes: Any, averages: Averages) -> None:
    """Draw the average indirect effect by layer, one line with a band for each class of tokens."""
    for name, style in zip(CLASSES, LINES, strict=True):
        found = averages.by_class.get(name)
        if found is None:
            continue
        band(axes, np.arange(len(found.mean)), found, style, name)
    axes.axhline(0, color="#444444", linewidth=0.7)
    plain_axes(axes)


def class_map(figure: Any, axes: Any, averages: Averages, high: float) -> None:
    """Draw average indirect effects as a map, one row for each class of tokens."""
    rows: list[tuple[str, Average]] = [(name, averages.by_class[name]) for name in CLASSES if name in averages.by_class]
    values = np.stack([found.mean for _, found in rows])
    labels = [name + "*" * (name in OF_SUBJECT) for name, _ in rows]
    heat_map(figure, axes, values, labels, averages.kind, low=0.0, high=high, unit=EFFECT)


def plain_axes(axes: Any, small: bool = False) -> None:
    """Take away what is no data: two spines; a faint grid helps to read values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7 if small else 9)
