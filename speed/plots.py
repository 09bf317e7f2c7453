"""Draw what was measured: time by stage beside the least time, and growth.

python -m speed.plots          # from speed/results/ into docs/
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from counterfact.core.files import read_json
from counterfact.tracing.plots import new_figure
from speed.jobs import STAGES
from speed.main_job import RESULTS

DOCS = RESULTS.parent.parent / "docs"
SIDES = {
    "one_at_a_time": ("#d55e00", "o", "one at a time"),
    "one_at_a_time_packed": ("#e69f00", "s", "one at a time, our products"),
    "ours_packed": ("#0072b2", "D", "ours"),
    "ours": ("#56b4e9", "^", "ours, torch's products"),
}
"""Colours of Okabe and Ito, and a mark of its own for each."""
LINES = {
    "edit": ("#0072b2", "-", "o"),
    "score": ("#009e73", "--", "s"),
    "generate": ("#d55e00", "-.", "D"),
    "total": ("#000000", ":", "x"),
}
AXES = {
    "records": ("records in one call", "seconds in all"),
    "chunk": ("records computed together", "seconds a record"),
    "depth": ("layers", "seconds a record"),
}


def draw_stages(results: Sequence[dict[str, Any]]) -> Any:
    """Return a figure, a panel for each measurement: seconds a record by stage, on a scale of powers of ten."""
    figure, panels = new_figure(9.6, 1.2 + 2.1 * len(results), len(results), 1)
    for axes, result in zip(panels[:, 0], results, strict=True):
        rows = result["stages"]
        for place, row in enumerate(rows):
            values = [row["floor"], *row["seconds"].values()]
            axes.plot([min(values), max(values)], [place, place], color="#cccccc", linewidth=1, zorder=1)
            axes.plot(
                row["floor"],
                place,
                "|",
                color="#000000",
                markersize=18,
                markeredgewidth=2,
                label=_once(place, "least time at this machine's ceilings"),
            )
            for side, seconds in row["seconds"].items():
                colour, mark, name = SIDES[side]
                axes.plot(seconds, place, mark, color=colour, markersize=7, label=_once(place, name))
            for side, ratio in row["ratios"].items():
                above = side == "one_at_a_time"
                text = "different numbers" if ratio is None else f"{ratio:.1f}x of {row['highest_ratios'][side]:.1f}x"
                at, shift = (row["seconds"][side], place), (0, 8 if above else -14)
                axes.annotate(text, at, shift, textcoords="offset points", ha="center", fontsize=7)
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [row["stage"] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(_title(result), loc="left", fontsize=9)
    panels[-1, 0].set_xlabel(
        "seconds a record; 2x of 3x: ours is twice as fast as this side, where no method could be more than three times"
    )
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _once(place: int, label: str) -> str | None:
    return label if place == 0 else None


def _title(result: dict[str, Any]) -> str:
    model, machine = result["model"], result["machine"]
    settings = result["settings"]
    texts = len(settings["context_lengths"]) * settings["contexts_per_length"]
    what = f"{model['layers']} x {model['width']}, {model['dtype']}, {texts} context texts, {settings['steps']} steps"
    return f"{model['name']} ({what}), {result['chunk']} records at once; {_on(machine)}"


def _on(machine: dict[str, Any]) -> str:
    return f"{machine['device']}, {machine['threads']} threads"


def draw_growth(results: Sequence[dict[str, Any]]) -> Any:
    """Return a figure: above time, below added memory, a column for each sweep."""
    figure, panels = new_figure(3.6 * len(results), 5.2, 2, len(results))
    for column, result in enumerate(results):
        of, points = result["of"], result["points"]
        x = [point[of] for point in points]
        above, below = panels[:, column]
        for stage in (*STAGES, "total"):
            colour, dash, mark = LINES[stage]
            scale = [point["records"] if of == "records" else 1 for point in points]
            y = [point["seconds"][stage] * factor for point, factor in zip(points, scale, strict=True)]
            above.plot(x, y, color=colour, linestyle=dash, marker=mark, markersize=4, label=stage)
        if (line := result["line"]) is not None:
            far = line["residual_relative_largest"]
            above.set_title(f"straight within {far:.0%}", fontsize=9)
        below.plot(x, [point["added_gigabytes"] for point in points], color="#000000", marker="x", markersize=4)
        above.set_ylabel(AXES[of][1])
        below.set_ylabel("added memory, GB")
        below.set_xlabel(AXES[of][0])
        for axes in (above, below):
            axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
            axes.spines[["top", "right"]].set_visible(False)
            if of == "chunk":
                axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in x])
            axes.minorticks_off()
    panels[0, 0].legend(frameon=False, fontsize=8)
    machines = dict.fromkeys(_on(result["machine"]) for result in results)
    figure.suptitle(f"random weights of factlm's width; {'; '.join(machines)}", fontsize=9)
    return figure


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Return the measurements of one kind in a folder, in the order of their names; older ones are passed over."""
    found = []
    for path in sorted(folder.glob(pattern)):
        result: dict[str, Any] = read_json(path)
        if "command" in result:
            found.append(result)
        else:
            print(f"{path}: measured by an earlier version, not drawn")
    return found


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=DOCS)
    arguments = parser.parse_args()
    jobs = read(arguments.results, "main_job-*.json")
    sweeps = read(arguments.results, "growth-*.json")
    for name, found, draw in (("speed-stages", jobs, draw_stages), ("speed-growth", sweeps, draw_growth)):
        if found:
            path = arguments.out / f"{name}.png"
            draw(found).savefig(path, dpi=130, metadata={"Software": None})
            print(f"written to {path}")


if __name__ == "__main__":
    main()
