"""Sequential runs in tables: what their edits keep and what they did at first, over records and over orders of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import exp
from typing import Any

from counterfact.evaluation.store import Run
from counterfact.evaluation.tables import Cell, Row, Table, decimals_of, entry_cells, scored_of
from counterfact.statistics.intervals import mean_interval

NOTE = "final: all facts, after the last edit; immediate: each fact, right after its own edit"
ORDERS_NOTE = "over orders: the mean of several orders of the same facts, with the interval over orders"
COLUMNS = ("edits", "S", "perplexity", "KL", "known", "norm", "spectral", "shift")
CONDITION_NOTE = (
    "S of the facts edited so far, x100; perplexity of plain texts, as a multiple of the unedited model's; KL of next "
    "tokens on them, in nats; known: facts that were never edited and are still known, in %; norm: of the most changed "
    "weight, as a multiple of the unedited one's; spectral: the largest singular value of its change, as a multiple of "
    "the weight's; shift of the hidden state at known facts' subjects, as a share of its norm"
)


def sequential_rows(runs: Sequence[Run], section: int) -> list[Row]:
    """Return two rows for each editor, and two more where there are several orders.

    Args:
        runs: sequential runs that differ by editor or order, those of one editor one after the other.
        section: of the rows.
    """
    rows = []
    for label, some in groupby(runs, lambda run: run.label):
        orders = list(some)
        for name, read in (("final", _final), ("immediate", _immediate)):
            first = read(orders[0])
            fallen = f", {_fallen(orders[0])}" if name == "final" and _fallen(orders[0]) else ""
            rows.append(Row(f"{label}, {name}{fallen}", entry_cells(first["metrics"]), scored_of(first["n"]), section))
            if len(orders) > 1:
                cells = _over_orders([read(run)["metrics"] for run in orders])
                rows.append(Row(f"{label}, {name}, over orders", cells, f"{len(orders)} orders", section))
    return rows


def notes_of(runs: Sequence[Run]) -> list[str]:
    """Return what the rows of sequential runs must be explained by."""
    several = any(run.data["protocol"]["schedule"]["order"] for run in runs)
    return [NOTE, ORDERS_NOTE] if several else [NOTE]


def condition_table(runs: Sequence[Run], title: str) -> Table:
    """Return what became of the model at each checkpoint of sequential runs; a collapse is marked where it came.

    Args:
        runs: those of one table.
        title: of that table.
    """
    rows: list[Row] = []
    for place, run in enumerate(runs):
        order = run.data["protocol"]["schedule"]["order"]
        label = f"{run.label}, order {order}" if order else run.label
        fell = run.data["sequence"]["collapsed_after"]
        for found in run.data["sequence"]["checkpoints"]:
            cells = condition_cells(found)
            if found["edits"] == fell:
                cells["edits"] = replace(cells["edits"], mark=" collapsed")
            rows.append(Row(label, cells, scored_of(found["n"]), place))
    return Table(f"The model, {title}", (("", COLUMNS),), tuple(rows), note=CONDITION_NOTE)


def condition_cells(found: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the numbers of one checkpoint, by column."""
    asked, rise = found["known_facts"]["asked"], found["perplexity_rise"]
    weights = list(found["weights"].values())
    sizes = [weight["norm_ratio"] for weight in weights if weight["norm_ratio"] is not None]
    spectral = [w["change_spectral"] / w["weight_spectral"] for w in weights if w["change_spectral"] is not None]
    return {
        "edits": Cell(found["edits"], decimals=0),
        "S": entry_cells(found["metrics"])["S"],
        "perplexity": Cell(None if rise is None else _multiple(rise), decimals=2),
        "KL": Cell(found["divergence"], decimals=3),
        "known": Cell(100 * found["known_facts"]["known"] / asked if asked else None),
        "norm": Cell(max(sizes, default=None), decimals=2),
        "spectral": Cell(max(spectral, default=None), decimals=2),
        "shift": Cell(found["hidden"] and found["hidden"]["shift"], decimals=2),
    }


def _multiple(rise: float) -> float | None:
    """Return the perplexity as a multiple of the unedited model's, where it can be written."""
    return exp(rise) if rise < 700 else None


def _final(run: Run) -> Mapping[str, Any]:
    return run.data


def _immediate(run: Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = run.data["sequence"]["immediate"]
    return found


def _fallen(run: Run) -> str:
    edits = run.data["sequence"]["collapsed_after"]
    return "" if edits is None else f"collapsed after {edits:,} edits"


def _over_orders(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Cell]:
    """Return the mean of each metric that all orders have a number of, and its interval over orders."""
    cells = {}
    for name in found[0]:
        values = [entries[name]["value"] for entries in found]
        if None not in values:
            estimate = mean_interval(values, "student")
            cells[name] = Cell(estimate.value, estimate.low, estimate.high, decimals=decimals_of(name))
    return cells
