"""Draw a ranking: efficacy, paraphrase and neighborhood of each editor, with 95 % intervals."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from counterfact.leaderboard.ranking import Ranking
from counterfact.tracing.plots import new_figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Of Okabe and Ito: colour-blind readers can tell them apart."""
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
GROUP = 0.78
"""Share of a run's place that its bars fill."""
LINE = 10
"""Letters of a name that fit under its bars."""
LABELS = {"ES": "efficacy (ES)", "PS": "paraphrase (PS)", "NS": "neighborhood (NS)"}


def draw(rankings: Sequence[Ranking], *paths: Path) -> None:
    """Draw one panel for each ranking and save the figure under every path (the suffix chooses the format)."""
    most = max(len(ranking.runs) for ranking in rankings)
    figure, panels = new_figure(max(9.0, 1.05 * most), 3.4 * len(rankings), len(rankings), 1)
    for axes, ranking in zip(panels[:, 0], rankings, strict=True):
        _panel(axes, ranking)
    for path in paths:
        save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Save a figure, the same bytes every time; the suffix chooses the format."""
    from matplotlib import rc_context  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "ranking"}):  # or equal figures get other names inside
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _panel(axes: Any, ranking: Ranking) -> None:
    parts = ranking.benchmark.score_parts
    width = GROUP / len(parts)
    for place, (metric, colour, hatch) in enumerate(zip(parts, cycle(COLOURS), cycle(HATCHES), strict=False)):
        for row, run in enumerate(ranking.runs):
            entry = run["metrics"].get(metric)
            if not entry or entry["value"] is None:
                continue
            x, value = row + (place - (len(parts) - 1) / 2) * width, entry["value"]
            label = LABELS.get(metric, metric) if row == 0 else None
            axes.bar(x, value, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5, label=label)
            error = [[max(0.0, value - entry["low"])], [max(0.0, entry["high"] - value)]]
            axes.errorbar(x, value, yerr=error, color="#222222", capsize=2.5, linewidth=1)
            axes.annotate(
                f"{value:.0f}", (x, entry["high"]), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
    names = [run["editor"]["name"] for run in ranking.runs]
    scores = [run["metrics"].get("S", {}).get("value") for run in ranking.runs]
    ticks = [
        f"{in_lines(name)}\nS {'–' if score is None else format(score, '.1f')}"
        for name, score in zip(names, scores, strict=True)
    ]
    axes.set_xticks(range(len(names)), ticks)
    axes.set_ylim(0, 119)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("score x100")
    axes.set_title(f"{ranking.dataset}, {ranking.model}, n = {ranking.n} (95 % intervals)", fontsize=10, loc="left")
    axes.legend(ncols=3, loc="upper right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def in_lines(name: str) -> str:
    """Break a long name at its underscores.

    >>> in_lines("mend_cf_neighbors"), in_lines("r_rome")
    ('mend_cf\\nneighbors', 'r_rome')
    """
    lines = [""]
    for part in name.split("_"):
        joined = f"{lines[-1]}_{part}" if lines[-1] else part
        if lines[-1] and len(joined) > LINE:
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)
