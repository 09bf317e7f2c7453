"""Draw all figures of a run of traces, and its page."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from counterfact.tracing.averages import Numbers, at_last_subject_token, average, effects_of
from counterfact.tracing.causal import CAVEAT
from counterfact.tracing.cells import KINDS, SEVERED
from counterfact.tracing.page import write_page
from counterfact.tracing.plots import (
    EFFECT,
    NAMES,
    PROBABILITY,
    class_lines,
    class_map,
    heat_map,
    new_figure,
    save,
    severed_bars,
    shown,
    token_labels,
)
from counterfact.tracing.store import Stored, TraceRun

Job = tuple[str, Callable[[], Any]]
CASES = 10
"""Panels of the grid of severed paths, as in figure 14; figure 16 has five rows."""


def draw_run(run: TraceRun, folder: Path, each: int = 10, progress: Callable[[int, int], None] | None = None) -> Path:
    """Draw a run's figures and write its page.

    Args:
        run: what to draw.
        folder: where, made if missing; figures are written as PDF and PNG.
        each: of how many facts a figure of their own is drawn.
        progress: function called with the number of figures done and their total.

    Returns:
        The page's path.

    Raises:
        BadInput: no fact of the run could be traced, or its arrays are damaged.
    """
    facts = list(run.facts())
    jobs = list(_jobs(run, facts, each))
    for place, (name, draw) in enumerate(jobs):
        save(draw(), folder, name)
        if progress:
            progress(place + 1, len(jobs))
    return write_page(run, facts, folder / "index.html")


def _jobs(run: TraceRun, facts: Sequence[Stored], each: int) -> Iterator[Job]:
    right = [fact for fact in facts if fact.line["correct"]]
    draw_one: dict[str, Callable[[TraceRun, Stored], Any]] = {
        "causal": fact_maps,
        "severed": fact_bars,
        "ig": fact_maps,
    }
    for fact in (right or facts)[:each]:
        yield f"fact-{fact.known_id:05d}", partial(draw_one[run.method], run, fact)
    if not right:
        return
    if run.method == "causal":
        yield "average-maps", partial(average_maps, run, right)
        yield "average-lines", partial(average_lines, run, right)
    if run.method == "severed":
        yield "average-bars", partial(average_bars, run, right)
        yield "cases", partial(severed_cases, run, right)
    if run.method == "ig":
        yield "cases", partial(gradient_cases, run, right[:5])


def model_name(run: TraceRun) -> str:
    """Return the model's name, with what is unusual about the run."""
    extra = ", one more token corrupted" if run.data["settings"].get("extra_token") else ""
    return f"{run.data['model']['name']}{extra}"


def fact_maps(run: TraceRun, fact: Stored) -> Any:
    """Draw one fact: tokens by layers, for each kind of trace or part."""
    line, height = fact.line, 1.5 + 0.24 * len(fact.line["tokens"])
    figure, panels = new_figure(12.5, height, 1, len(KINDS))
    _row_of_maps(run, figure, panels[0], fact)
    known = "" if line["correct"] else f" (not {line['attribute']})"
    levels = f"p = {line['high']:.3f}" + (f", corrupted {line['low']:.3f}" if "low" in line else "")
    figure.suptitle(f"{model_name(run)}: {_quoted(line)}{known}, {levels}", fontsize=10)
    return figure


def _row_of_maps(run: TraceRun, figure: Any, panels: Any, fact: Stored) -> None:
    line = fact.line
    # Probabilities of one fact have one scale; norms of gradients are not to be held against each other.
    high = max(float(fact.arrays[kind].max()) for kind in KINDS) if run.method == "causal" else None
    for axes, kind in zip(panels, KINDS, strict=True):
        labels = token_labels(line, line["traced_tokens"][kind])
        low = line["low"] if run.method == "causal" else 0.0
        unit = PROBABILITY if run.method == "causal" else "norm"
        heat_map(figure, axes, fact.arrays[kind], labels, kind, low=low, high=high, unit=unit)
        _name_panel(axes, run, kind)


def _name_panel(axes: Any, run: TraceRun, kind: str) -> None:
    """Write what is restored above a panel, and what its layers are below."""
    of_module, traced = kind != "state", run.method != "ig"
    name = NAMES[kind] + (f" output{'s' * traced}" if of_module else "")
    axes.set_title(f"restoring {name}" if traced else name, fontsize=9)
    window = of_module and traced
    axes.set_xlabel(f"centre of a window of {run.data['settings']['window']} layers" if window else "layer", fontsize=8)


def fact_bars(run: TraceRun, fact: Stored) -> Any:
    """Draw one fact: the effect at the subject's last token, ordinary and with paths severed."""
    figure, panels = new_figure(7.5, 3.4, 1, 1)
    token = fact.line["subject_range"][1] - 1
    effects: dict[str, Numbers] = {kind: effects_of(fact, kind)[token] for kind in ("state", *reversed(SEVERED))}
    severed_bars(panels[0, 0], effects, first=run.first_layer)
    _legend_below(figure, panels, 3)
    title = f"{model_name(run)}: {_quoted(fact.line)}, p = {fact.line['high']:.3f}"
    panels[0, 0].set_title(f"{title}\nat the token “{shown(fact.line['tokens'][token])}”", fontsize=9)
    return figure


def average_maps(run: TraceRun, facts: Sequence[Stored]) -> Any:
    """Draw average indirect effects by class of token: one map for each kind, all on the states' scale."""
    figure, panels = new_figure(12.5, 2.6, 1, len(KINDS))
    found = [average(facts, kind) for kind in KINDS]
    high = max(float(one.mean.max()) for one in found[0].by_class.values())
    for axes, averages in zip(panels[0], found, strict=True):
        class_map(figure, axes, averages, high)
        _name_panel(axes, run, averages.kind)
    figure.suptitle(_average_title(run, found[0].facts, found[0].total), fontsize=10)
    return figure


def average_lines(run: TraceRun, facts: Sequence[Stored]) -> Any:
    """Draw average indirect effects by layer with their 95 % intervals: a panel for each kind."""
    figure, panels = new_figure(12.5, 3.9, 1, len(KINDS), sharey=True)
    found = [average(facts, kind) for kind in KINDS]
    for axes, averages in zip(panels[0], found, strict=True):
        class_lines(axes, averages)
        _name_panel(axes, run, averages.kind)
    panels[0, 0].set_ylabel(EFFECT)
    _legend_below(figure, panels, 6)
    figure.suptitle(f"{_average_title(run, found[0].facts, found[0].total)}; bands: 95 %\n{CAVEAT}", fontsize=9)
    return figure


def average_bars(run: TraceRun, facts: Sequence[Stored]) -> Any:
    """Draw the average effect at the subject's last token, ordinary and with paths severed, with 95 % intervals."""
    figure, panels = new_figure(8.5, 3.8, 1, 1)
    found = {kind: at_last_subject_token(facts, kind) for kind in ("state", *reversed(SEVERED))}
    severed_bars(
        panels[0, 0],
        {kind: one.mean for kind, one in found.items()},
        {kind: one.half for kind, one in found.items()},
        first=run.first_layer,
    )
    _legend_below(figure, panels, 3)
    total = float(np.mean([fact.line["high"] - fact.line["low"] for fact in facts]))
    title = f"{_average_title(run, len(facts), total)}\nat the last subject token; bars: 95 %"
    panels[0, 0].set_title(title, fontsize=9)
    return figure


def severed_cases(run: TraceRun, facts: Sequence[Stored]) -> Any:
    """Draw ten cases: the effect at one subject token with and without MLPs, the token in a red box (figure 14)."""
    chosen = choose_cases(facts)
    figure, panels = new_figure(12.5, 1.9 * ((len(chosen) + 1) // 2), (len(chosen) + 1) // 2, 2)
    for place, (fact, token) in enumerate(chosen):
        axes = panels[place % len(panels), place // len(panels)]
        effects = {kind: effects_of(fact, kind)[token] for kind in ("state", "severed_mlp")}
        severed_bars(axes, effects, first=run.first_layer, small=True)
        _boxed_title(axes, chr(ord("a") + place), fact, token)
    for axes in panels.flat[len(chosen) :]:
        axes.set_axis_off()
    _legend_below(figure, panels, 2)
    embedding = "; E: the embedding" if run.first_layer < 0 else ""
    title = f"{model_name(run)}: {EFFECT}, by layer{embedding}; at the token in the red box"
    figure.suptitle(title, fontsize=10)
    return figure


def choose_cases(facts: Sequence[Stored]) -> list[tuple[Stored, int]]:
    """Choose ten cases by rule: up to five facts with the largest effect at the subject's last token; then up to two
    in which an earlier subject token has a larger effect than the last by the most (both tokens are shown); then
    those with the smallest effect at any subject token.
    """
    peaks = [{token: float(one.max()) for token, one in effects_of(fact, "state").items()} for fact in facts]
    last = [fact.line["subject_range"][1] - 1 for fact in facts]
    order = sorted(range(len(facts)), key=lambda i: -peaks[i][last[i]])
    chosen = [(i, last[i]) for i in order[: CASES // 2]]
    rest = order[CASES // 2 :]
    lead = {i: max(peaks[i].values()) - peaks[i][last[i]] for i in rest}
    for i in sorted((i for i in rest if lead[i] > 0), key=lambda i: -lead[i])[:2]:
        chosen += [(i, max(peaks[i], key=peaks[i].__getitem__)), (i, last[i])]
    used = {i for i, _ in chosen}
    weak = sorted((i for i in rest if i not in used), key=lambda i: max(peaks[i].values()))
    chosen += [(i, last[i]) for i in weak[: CASES - len(chosen)]]
    return [(facts[i], token) for i, token in chosen]


def gradient_cases(run: TraceRun, facts: Sequence[Stored]) -> Any:
    """Draw five facts, one a row, with the three parts across (figure 16)."""
    heights = [0.9 + 0.17 * len(fact.line["tokens"]) for fact in facts]
    figure, panels = new_figure(
        12.5, sum(heights) + 0.6, len(facts), len(KINDS), gridspec_kw={"height_ratios": heights}
    )
    for place, (fact, row) in enumerate(zip(facts, panels, strict=True)):
        _row_of_maps(run, figure, row, fact)
        row[0].set_title(
            f"({chr(ord('a') + place)}) {NAMES[KINDS[0]]}, → {shown(fact.line['answer'].strip())}", fontsize=9
        )
    figure.suptitle(f"{model_name(run)}: norm of the integrated gradients of p(o)", fontsize=10)
    return figure


def _legend_below(figure: Any, panels: Any, columns: int) -> None:
    """Put the first panel's legend below all panels, where no bar can cover it."""
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _boxed_title(axes: Any, letter: str, fact: Stored, token: int) -> None:
    """Write the prompt's tokens above a panel, one of them in a red box."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea  # noqa: PLC0415

    red = {"edgecolor": "#cc0000", "facecolor": "none", "pad": 1.2, "linewidth": 1.2}
    words: list[Any] = [TextArea(f"({letter})  ", textprops={"fontsize": 8, "fontweight": "bold"})]
    for place, text in enumerate(token_labels(fact.line, range(len(fact.line["tokens"])))):
        box = {"bbox": red} if place == token else {}
        words.append(TextArea(text.strip(), textprops={"fontsize": 8, **box}))
    words.append(TextArea(f"→ {shown(fact.line['answer'].strip())}", textprops={"fontsize": 8, "style": "italic"}))
    row = HPacker(children=words, pad=0, sep=3)
    at = {"bbox_to_anchor": (0.0, 1.02), "bbox_transform": axes.transAxes, "borderpad": 0}
    axes.add_artist(AnchoredOffsetbox("lower left", child=row, frameon=False, pad=0, **at))


def _average_title(run: TraceRun, facts: int, total: float) -> str:
    return f"{model_name(run)}: average indirect effect over {facts} facts; total effect {100 * total:.1f} points"


def _quoted(line: dict[str, Any]) -> str:
    return shown(f"“{line['prompt']}” → {line['answer'].strip()}")
