"""Draw several runs of causal traces into one figure: other models, noise rules or corrupted ranges side by side.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix B.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterfact.core.errors import BadInput
from counterfact.tracing.averages import Averages, average
from counterfact.tracing.causal import CAVEAT
from counterfact.tracing.cells import KINDS
from counterfact.tracing.plots import EFFECT, LINES, NAMES, band, new_figure, plain_axes, save, shown
from counterfact.tracing.store import TraceRun

CLASSES_SHOWN = ("last subject token", "last token")
"""The rows: where the early and the late site lie."""
STYLES = tuple(LINES[place] for place in (0, 2, 5, 3, 1, 4))
"""Neighbours are unlike each other; the classes of tokens go in pairs."""


def draw_comparison(runs: Sequence[TraceRun], folder: Path) -> list[Path]:
    """Draw the average indirect effects of some runs by layer, with their 95 % intervals: a line a run.

    Runs of models of unequal depth share an axis from 0 to 1, the layer's share of the depth.

    Args:
        runs: of causal traces; others are left out.
        folder: where `comparison.pdf` and `comparison.png` are written.

    Raises:
        BadInput: fewer than two runs of causal traces or more than six, or one in which the model knows no fact.
    """
    causal = [run for run in runs if run.method == "causal"]
    if not 2 <= len(causal) <= len(LINES):
        raise BadInput(f"expected 2 to {len(LINES)} runs of causal traces to compare, got {len(causal)}")
    found: list[dict[str, Averages]] = [{kind: average(run.facts(), kind) for kind in KINDS} for run in causal]
    names = run_names(causal)
    return save(_figure(names, found), folder, "comparison")


def run_names(runs: Sequence[TraceRun]) -> list[str]:
    """Return what tells each run from the others: the model, and the settings that are not the same in all."""
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    unequal = [name for name in names if len({repr(one.get(name)) for one in settings}) > 1]
    # Each model is traced on facts of its own: that they differ goes without saying.
    told = [name for name in unequal if name != "facts"] or unequal
    return [", ".join(_words(name, one.get(name)) for name in told) or "the same settings" for one in settings]


def _settings(run: TraceRun) -> dict[str, Any]:
    data = run.data
    corruption = data["settings"]["corruption"]
    return {
        "model": f"{data['model']['name']}@{str(data['model']['revision'])[:8]}",
        "extra token": data["settings"]["extra_token"],
        "window": data["settings"]["window"],
        "noise": corruption["code"],
        **{name.replace("_", " "): corruption[name] for name in ("replace", "samples", "seed", "one_seed")},
        "facts": data["facts"]["hash"][:8],
    }


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return str(value) if name == "model" else f"{name} {value}"


def _figure(names: Sequence[str], found: Sequence[Mapping[str, Averages]]) -> Any:
    figure, panels = new_figure(12.5, 6.4, len(CLASSES_SHOWN), len(KINDS), sharey="row")
    depths = {_depth(one) for one in found}
    for row, name in zip(panels, CLASSES_SHOWN, strict=True):
        for axes, kind in zip(row, KINDS, strict=True):
            for place, one in enumerate(found):
                _line(axes, one[kind], name, place, f"{shown(names[place])}{_levels(one[kind])}", len(depths) > 1)
            axes.axhline(0, color="#444444", linewidth=0.7)
            axes.set_title(f"restoring {NAMES[kind]}, {name}", fontsize=9)
            plain_axes(axes)
        row[0].set_ylabel(EFFECT)
    for axes in panels[-1]:
        axes.set_xlabel("layer" if len(depths) == 1 else "layer, as a share of the depth")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if len(found) < 4 else 2, frameon=False)
    figure.suptitle(f"Average indirect effects of {len(found)} runs; bands: 95 %\n{CAVEAT}", fontsize=9)
    return figure


def _line(axes: Any, averages: Averages, name: str, place: int, label: str, shared: bool) -> None:
    one = averages.by_class.get(name)
    if one is None:
        return
    layers = np.arange(len(one.mean)) / (len(one.mean) - 1 or 1 if shared else 1)
    band(axes, layers, one, STYLES[place], label)


def _levels(averages: Averages) -> str:
    return f": {averages.facts} facts, total effect {100 * averages.total:.1f} points"


def _depth(found: Mapping[str, Averages]) -> int:
    return len(next(iter(found["state"].by_class.values())).mean)
