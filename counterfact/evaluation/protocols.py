"""Editors under several protocols: one table for a model, and where the order of two editors turns around."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from counterfact.core.errors import BadInput
from counterfact.evaluation.schedule import in_words
from counterfact.evaluation.store import Run
from counterfact.evaluation.summary import cells_of, paired, place_of
from counterfact.evaluation.tables import Row, Table, scored_of

UNEDITED = "unedited"
Key = tuple[str, ...]


def protocol_tables(runs: Sequence[Run]) -> list[Table]:
    """Return one table for each model: protocols and their measures in the rows, editors in the columns.

    A protocol's rows are its Score S and the means that go into it. Below stands which of two editors is ahead by S
    under which protocols, where each turns out ahead somewhere by a paired difference whose 95 % interval excludes 0.

    Args:
        runs: finished runs; an editor has a column for each set of choices.

    Raises:
        BadInput: two runs would stand in one place.
    """
    models: dict[Key, list[Run]] = {}
    for run in runs:
        model = run.data["model"]
        models.setdefault((model["name"], model["weights_hash"], model["dtype"]), []).append(run)
    return [_table(some) for some in models.values()]


def _table(runs: Sequence[Run]) -> Table:
    variants = list(dict.fromkeys(run.variant for run in sorted(runs, key=place_of)))
    protocols: dict[Key, dict[str, Run]] = {}
    for run in runs:
        data = (run.dataset, run.data["dataset"]["content_hash"], str(run.known_of))
        key = (*data, str(run.data["protocol"]), str(run.data["seeds"]))
        other = protocols.setdefault(key, {}).setdefault(run.variant, run)
        if other is not run:
            raise BadInput(f"{other.folder} and {run.folder} are the same editor under one protocol; name one of them")
    ordered = sorted(protocols.values(), key=_place)
    rows = [row for section, some in enumerate(ordered) for row in _rows(some, section)]
    model = runs[0].data["model"]
    return Table(
        title=f"Protocols on {model['name']}@{model['revision'][:8]}",
        groups=(("", (UNEDITED, *variants)),),
        rows=tuple(rows),
        note="; ".join(["x100, with the 95 % interval", *_flips(ordered)]),
        heading="Protocol",
    )


def _place(runs: Mapping[str, Run]) -> tuple[str, bool, str]:
    """Sort a data set's own protocol before those that ask something else about it."""
    first = next(iter(runs.values()))
    return first.dataset, first.benchmark.recognises is None, first.benchmark.title


def _rows(runs: Mapping[str, Run], section: int) -> list[Row]:
    first = next(iter(runs.values()))
    sides = {UNEDITED: cells_of(first, "pre")} | {variant: cells_of(run, "post") for variant, run in runs.items()}
    counts = {scored_of(run.data["n"]) for run in runs.values()}
    notes = ["known facts"] if first.known_of is not None else []
    notes += filter(None, [in_words(first.data["protocol"]["schedule"])])
    title = ", ".join([f"{first.benchmark.title} on {first.dataset}", *notes])
    rows = []
    for name in ("S", *first.benchmark.score_parts):
        label = f"{title}: S" if name == "S" else name
        cells = {column: found[name] for column, found in sides.items() if name in found}
        rows.append(Row(label, cells, " or ".join(sorted(counts)) if name == "S" else "", section))
    return rows


def _flips(protocols: Sequence[Mapping[str, Run]]) -> list[str]:
    """Say which of two editors is clearly ahead under which protocols, for those whose order turns around."""
    ahead: dict[tuple[str, str], list[int]] = {}
    for place, runs in enumerate(protocols):
        for one, other in combinations(runs, 2):
            summary = paired(runs[one], runs[other])[0]["S"].estimate
            if summary.low is not None and summary.low > 0:
                ahead.setdefault((one, other), []).append(place)
            if summary.high is not None and summary.high < 0:
                ahead.setdefault((other, one), []).append(place)
    turned: dict[tuple[str, str], list[str]] = {}
    names = _names(protocols)
    for (one, other), leads in sorted(ahead.items()):
        lags = ahead.get((other, one), [])
        if lags and leads < lags:  # the one that leads under the protocol that stands first says it for both
            where = f"under {', '.join(names[i] for i in leads)}, behind under {', '.join(names[i] for i in lags)}"
            turned.setdefault((one, where), []).append(other)
    return [f"{one} is ahead of {', '.join(others)} {where}" for (one, where), others in turned.items()]


def _names(protocols: Sequence[Mapping[str, Run]]) -> list[str]:
    """Name protocols as briefly as tells them apart."""
    firsts = [next(iter(runs.values())) for runs in protocols]
    titles = [first.benchmark.title for first in firsts]
    return [
        title if titles.count(title) == 1 else f"{title} on {first.dataset}"
        for title, first in zip(titles, firsts, strict=True)
    ]
