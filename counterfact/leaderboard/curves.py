"""Draw many edits: what is retained of them, scores against their number, and when the model collapses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from math import exp, log
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.evaluation.plain_texts import RUIN
from counterfact.evaluation.schedule import in_words
from counterfact.evaluation.store import Run
from counterfact.leaderboard.picture import COLOURS, save
from counterfact.tracing.plots import new_figure

MARKS = ("o", "s", "D", "^", "v", "P", "X")
"""Of the lines, beside their colours: one more than these, so that a line whose colour returns has another mark."""
BESIDE = 1.1
"""Where a mark stands that would cover another, on an axis of logarithms."""
Entry = Mapping[str, Any]


def draw_curves(runs: Iterable[Run], folder: Path) -> list[Path]:
    """Draw all curves that some runs allow, as PNG.

    For each data set and model: `scaling`, of runs whose groups are edited on the unedited model; and for each schedule
    of sequential runs `retention` and `collapse`.

    Args:
        runs: any.
        folder: made if missing.

    Returns:
        The files.

    Raises:
        BadInput: there is nothing to draw: neither sequential runs nor an editor with several numbers of edits at once.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        schedule = run.data["protocol"]["schedule"]
        kind = in_words({**schedule, "order": 0}) if schedule["sequential"] else "mass"
        groups.setdefault((run.benchmark.on(run.dataset), run.model, kind), []).append(run)
    paths = []
    for (dataset, model, kind), some in sorted(groups.items()):
        name = "-".join(word for word in f"{dataset}-{model}".replace("/", "-").split())
        title = f"{dataset}, {model}"
        if kind == "mass":
            if len(set(map(_size, some))) > 1:
                paths.append(save(scaling(some, title), folder / f"{name}-scaling.png"))
            continue
        at_once = groups.get((dataset, model, "mass"), [])
        figures = {
            "retention": retention(some, f"{title}, {kind}", at_once),
            "collapse": collapse(some, f"{title}, {kind}"),
        }
        for what, figure in figures.items():
            paths.append(save(figure, folder / f"{name}-{'-'.join(kind.replace(',', '').split())}-{what}.png"))
    if not paths:
        raise BadInput("nothing to draw: expected sequential runs, or one editor with several --edits-at-once")
    return paths


def retention(runs: Sequence[Run], title: str, at_once: Sequence[Run] = ()) -> Any:
    """Draw Score S against the number of edits: all that was edited so far, and the records edited first.

    Lines are retained scores with 95 % intervals over records, a cross is a collapse, a dash at the right edge the mean
    of the immediate scores. Of an editor with several orders of the records these are of the first; thin lines are the
    others. Open marks, to the right of a number, are of one edit of so many records.

    Args:
        runs: sequential ones.
        title: what they share.
        at_once: runs whose groups are edited on the unedited model; those of one group are drawn.
    """
    figure, panels = new_figure(10.5, 3.9, 1, 2, sharey=True)
    edits = sorted({each["edits"] for run in runs for each in run.data["sequence"]["checkpoints"]})
    at_once = [run for run in at_once if _size(run) == run.data["n"]["asked"] and _size(run) in edits]
    labels = dict.fromkeys(run.label for run in (*runs, *at_once))
    styles = dict(zip(labels, zip(cycle(COLOURS), cycle(MARKS), strict=False), strict=False))
    for run, *others in _orders(runs):
        colour, mark = styles[run.label]
        sequence = run.data["sequence"]
        found = sequence["checkpoints"]
        for other in others:
            _thin(panels[0, 0], other, _all, colour)
            _thin(panels[0, 1], other, _first, colour)
        style = {"color": colour, "marker": mark, "label": run.label}
        _line(panels[0, 0], [(each["edits"], _all(each)) for each in found], style)
        first = next((each["cohorts"][0]["to"] for each in found), 0)
        _line(panels[0, 1], [(each["edits"], _first(each)) for each in found], style)
        if (immediate := sequence["immediate"]["metrics"]["S"]["value"]) is not None:
            panels[0, 0].plot([found[-1]["edits"]], [immediate], marker="_", markersize=16, color=colour)
        for axes, read in ((panels[0, 0], _all), (panels[0, 1], _first)):
            _cross(axes, found, sequence["collapsed_after"], read, colour)
    have_lines = {run.label for run in runs}
    for run in at_once:
        colour, mark = styles[run.label]
        label = None if run.label in have_lines else f"{run.label}, at once"
        look = {"color": colour, "marker": mark, "markerfacecolor": "white", "linestyle": "none", "label": label}
        _line(panels[0, 0], [(_size(run) * BESIDE, run.data["metrics"]["S"])], look)
    more = ("; thin: other orders" if any(_order(run) for run in runs) else "") + ("; open: at once" if at_once else "")
    _axes(panels[0, 0], edits, f"all facts edited so far; dash: immediate{more}", "Score S x100")
    _axes(panels[0, 1], edits, "the first edited, later" if first == 1 else f"the first {first:,} edited, later", "")
    _finish(figure, panels, f"What is left of edits: {title}")
    return figure


def scaling(runs: Sequence[Run], title: str) -> Any:
    """Draw Score S and its parts against the number of edits at once, with 95 % intervals over records."""
    names = ("S", *runs[0].benchmark.score_parts)
    figure, panels = new_figure(3.3 * len(names), 3.9, 1, len(names), sharey=True)
    by_label: dict[str, list[Run]] = {}
    for run in sorted(runs, key=_size):
        by_label.setdefault(run.label, []).append(run)
    sizes = sorted(set(map(_size, runs)))
    for place, name in enumerate(names):
        for (label, mine), colour, mark in zip(by_label.items(), cycle(COLOURS), cycle(MARKS), strict=False):
            points = [(_size(run), run.data["metrics"][name]) for run in mine]
            _line(panels[0, place], points, {"color": colour, "marker": mark, "label": label})
        _axes(panels[0, place], sizes, name, "x100" if place == 0 else "", label="edits at once")
    counts = sorted({run.data["n"]["asked"] for run in runs})
    records = f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"
    _finish(figure, panels, f"Many edits at once: {title}, {records}")
    return figure


def collapse(runs: Sequence[Run], title: str) -> Any:
    """Draw a strip for each editor: the perplexity of plain texts at each checkpoint, and where it collapsed.

    Of an editor with several orders of the records the first is drawn.
    """
    from matplotlib.colors import LogNorm  # noqa: PLC0415

    runs = [first for first, *_ in _orders(runs)]
    figure, panels = new_figure(9.0, 1.7 + 0.42 * len(runs), 1, 1)
    axes, scale = panels[0, 0], LogNorm(1.0, RUIN)
    edits = sorted({each["edits"] for run in runs for each in run.data["sequence"]["checkpoints"]})
    for row, run in enumerate(runs):
        for found in run.data["sequence"]["checkpoints"]:
            rise = found["perplexity_rise"]
            times = RUIN if rise is None or rise > log(RUIN) else max(exp(rise), 1.0)
            x = edits.index(found["edits"])
            axes.barh(row, 1, left=x - 0.5, height=0.86, color=_map()(scale(times)), edgecolor="white")
            said = _times(rise) + (" †" if found["edits"] == run.data["sequence"]["collapsed_after"] else "")
            axes.text(x, row, said, ha="center", va="center", fontsize=8, color="white" if times > 3 else "black")
    axes.set_yticks(range(len(runs)), [run.label for run in runs])
    axes.set_xticks(range(len(edits)), [f"{number:,}" for number in edits])
    axes.set_xlim(-0.5, len(edits) - 0.5)
    axes.invert_yaxis()
    axes.set_xlabel("edits made")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(
        f"Perplexity of plain texts, as a multiple of the unedited model's; †: collapsed\n{title}",
        fontsize=10,
        loc="left",
    )
    return figure


def _order(run: Run) -> int:
    return int(run.data["protocol"]["schedule"].get("order", 0))


def _orders(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each editor, by the order of their records, editors in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return [sorted(some, key=_order) for some in found.values()]


def _size(run: Run) -> int:
    """Return how many records share an edit: of a run that ended with fewer records, all of them."""
    return min(int(run.data["protocol"]["schedule"]["edits_at_once"]), int(run.data["n"]["asked"]))


def _times(rise: float | None) -> str:
    """Say a rise of perplexity, in nats a token, as a factor.

    >>> _times(None), _times(0.05), _times(4.12), _times(9.0)
    ('–', '1.05', '62', '> 400')
    """
    if rise is None:
        return "–"
    return "> 400" if rise > 6 else f"{exp(rise):.2f}" if exp(rise) < 10 else f"{exp(rise):.0f}"


def _map() -> Any:
    from matplotlib import colormaps  # noqa: PLC0415

    return colormaps["YlOrRd"]


def _line(axes: Any, points: Sequence[tuple[float, Entry]], style: Mapping[str, Any]) -> None:
    there = [(x, entry) for x, entry in points if entry["value"] is not None]
    if not there:
        return
    xs, values = [x for x, _ in there], [entry["value"] for _, entry in there]
    ends = [(entry["low"], entry["high"]) if entry["low"] is not None else (entry["value"],) * 2 for _, entry in there]
    errors = [
        [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
    ]
    axes.errorbar(xs, values, yerr=errors, capsize=2.5, linewidth=1.4, elinewidth=0.8, markersize=4.5, **style)


def _thin(axes: Any, run: Run, read: Callable[[Entry], Entry], colour: str) -> None:
    points = [(each["edits"], read(each)["value"]) for each in run.data["sequence"]["checkpoints"]]
    axes.plot(
        [edits for edits, value in points if value is not None],
        [value for _, value in points if value is not None],
        linewidth=0.7,
        alpha=0.6,
        color=colour,
    )


def _cross(axes: Any, found: Sequence[Entry], fell: int | None, read: Any, colour: str) -> None:
    for each in found:
        value = read(each)["value"]
        if each["edits"] == fell and value is not None:
            axes.plot([fell], [value], marker="x", markersize=13, markeredgewidth=2.5, color=colour)


def _all(checkpoint: Entry) -> Entry:
    entry: Entry = checkpoint["metrics"]["S"]
    return entry


def _first(checkpoint: Entry) -> Entry:
    entry: Entry = checkpoint["cohorts"][0]["metrics"]["S"]
    return entry


def _axes(axes: Any, edits: Sequence[int], title: str, y: str, *, label: str = "edits made") -> None:
    axes.set_xscale("log")
    axes.set_xticks(edits, [f"{number:,}" for number in edits], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-3, 106)
    axes.set_xlabel(label)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _finish(figure: Any, panels: Any, title: str) -> None:
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.suptitle(f"{title} (95 % intervals)", fontsize=10, x=0.01, ha="left")
