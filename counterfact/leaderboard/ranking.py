"""Rank runs: rows that may be compared, best Score S first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark
from counterfact.evaluation.schedule import alike


@dataclass(frozen=True)
class Ranking:
    """Runs that were measured on the same records with the same definitions, best first."""

    dataset: str
    benchmark: Benchmark[Any]
    model: str
    n: int
    runs: tuple[Mapping[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics of the board that at least one run has."""
        return tuple(c for c in columns_of(self.benchmark) if any(c in run["metrics"] for run in self.runs))


def rank(runs: Iterable[Mapping[str, Any]]) -> list[Ranking]:
    """Group runs by what makes them comparable, and sort each group by S; equal ones by name, a run without S last.

    Two runs are ranked together only if the data set's name, version and content, the record ids, the model's weights,
    their dtype, the protocol, its judge and the schedule of edits agree (but for when else a sequential run was
    measured); and, of what both have, the definition of every column, the length and sort of generated texts and the
    texts they are compared with. Where a run has a `score` of its own (S with failures counted), that one counts.
    """
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], list[Mapping[str, Any]]]]] = {}
    for run in runs:
        likes = _agreeing(run)
        alike = groups.setdefault(_equal(run), [])
        for known, members in alike:
            if all(known.get(name, value) == value for name, value in likes.items()):
                known.update(likes)
                members.append(run)
                break
        else:
            alike.append((likes, [run]))
    return [_ranking(members) for alike in groups.values() for _, members in alike]


def _equal(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what must be equal in runs that are ranked together."""
    dataset, model, protocol = run["dataset"], run["model"], run.get("protocol", {})
    where = tuple(str(dataset[name]) for name in ("name", "version", "content_hash", "record_ids"))
    asked = (str(protocol.get(name)) for name in ("name", "version", "chat_template", "judge"))
    how = (*asked, str(alike(protocol.get("schedule", {}))))
    core = tuple(run["metrics"].get(name, {}).get("definition") for name in benchmark_of_run(run).score_parts)
    return (*where, model["weights_hash"], model["dtype"], *how, core)


def _agreeing(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal where both runs have it."""
    found = {name: run["metrics"][name]["definition"] for name in columns_of(benchmark_of_run(run))
             if name in run["metrics"]}  # fmt: skip
    if (generation := run.get("protocol", {}).get("generation")) is not None:
        found["generation"] = str(generation)
        found["texts"] = run["dataset"].get("reference_texts_hash")
    return found


def benchmark_of_run(run: Mapping[str, Any]) -> Benchmark[Any]:
    """Return the benchmark that a run file says it was measured by."""
    return BENCHMARKS.get(run["protocol"]["name"])


def columns_of(benchmark: Benchmark[Any]) -> tuple[str, ...]:
    """Return the metrics that a board shows: Score S, then those of the benchmark's table."""
    return ("S", *(name for name in benchmark.shown if name != "S"))


def _ranking(group: list[Mapping[str, Any]]) -> Ranking:
    def score(run: Mapping[str, Any]) -> float:
        value = run["score"] if "score" in run else run["metrics"].get("S", {}).get("value")
        return -1.0 if value is None else float(value)

    first = group[0]
    return Ranking(
        dataset=benchmark_of_run(first).on(f"{first['dataset']['name']}@{first['dataset']['version']}"),
        benchmark=benchmark_of_run(first),
        model=f"{first['model']['name']}@{first['model']['revision']}",
        n=first["n"]["asked"],
        runs=tuple(sorted(group, key=lambda run: (-score(run), str(run["editor"]["name"])))),
    )
