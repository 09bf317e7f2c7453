"""Rank runs: rows that may be compared, best Score S first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.records import Kind
from metrics import COMPOSITES

COLUMNS = {
    "counterfact": ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS"),
    "zsre": ("S", "efficacy", "paraphrase", "specificity"),
}
"""Metrics a table shows, in the order of the paper's Tables 4 and 1."""


@dataclass(frozen=True)
class Ranking:
    """Runs that were measured on the same records with the same definitions, best first."""

    dataset: str
    kind: Kind
    model: str
    n: int
    runs: tuple[Mapping[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics of this kind of data set that at least one run has."""
        return tuple(c for c in COLUMNS[self.kind] if any(c in run["metrics"] for run in self.runs))


def rank(runs: Iterable[Mapping[str, Any]]) -> list[Ranking]:
    """Group runs by what makes them comparable, and sort each group by S; equal ones by name, a run without S last.

    Two runs are ranked together only if the data set's content, the record ids, the model's weights, their dtype
    and the definition of every metric they share agree. Where a run has a `score` of its own (S with failures counted),
    that one counts.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        dataset, model = run["dataset"], run["model"]
        definitions = tuple(sorted((name, metric["definition"]) for name, metric in run["metrics"].items()))
        core = tuple(pair for pair in definitions if pair[0] in core_metrics(dataset["kind"]))
        key = (dataset["content_hash"], str(dataset["record_ids"]), model["weights_hash"], model["dtype"], core)
        groups.setdefault(key, []).append(run)
    return [_ranking(group) for group in groups.values()]


def core_metrics(kind: Kind) -> tuple[str, ...]:
    """Return the three metrics whose harmonic mean is S."""
    return COMPOSITES.get("S").parts[kind]


def _ranking(group: list[Mapping[str, Any]]) -> Ranking:
    def score(run: Mapping[str, Any]) -> float:
        value = run["score"] if "score" in run else run["metrics"].get("S", {}).get("value")
        return -1.0 if value is None else float(value)

    first = group[0]
    return Ranking(
        dataset=f"{first['dataset']['name']}@{first['dataset']['version']}",
        kind=first["dataset"]["kind"],
        model=f"{first['model']['name']}@{first['model']['revision']}",
        n=first["n"]["asked"],
        runs=tuple(sorted(group, key=lambda run: (-score(run), str(run["editor"]["name"])))),
    )
