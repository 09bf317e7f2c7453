"""From lines of `cases.jsonl` to one number per metric: the one place where means, intervals and n are taken."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.metrics import COMPOSITES, Block, Composite, Metric
from counterfact.core.seeds import derive_seed
from counterfact.statistics.intervals import INTERVALS, Estimate, Rows, bootstrap, difference_interval, mean_interval

Side = Literal["post", "pre"]
Values = dict[str, list[float | None]]


@dataclass(frozen=True)
class Summary:
    """One metric over many records, as it is printed (x100 where the paper does)."""

    estimate: Estimate
    unit: str
    definition: int

    def as_json(self) -> dict[str, Any]:
        """Return what `run.json` holds of it."""
        e = self.estimate
        return {
            "value": e.value, "n": e.n, "low": e.low, "high": e.high, "unit": self.unit, "definition": self.definition,
            "interval": INTERVALS,
        }  # fmt: skip


def blocks_of(lines: Iterable[Mapping[str, Any]], side: Side) -> list[Block]:
    """Return the blocks of the lines that have one, each with its record's `target_tokens` in it."""
    return [{**line[side], "target_tokens": line.get("target_tokens")} for line in lines if side in line]


def summarise(blocks: Sequence[Block], benchmark: Benchmark[Any], seed: int = 0) -> dict[str, Summary]:
    """Return every metric and composite of a benchmark over records.

    Args:
        blocks: one for each record.
        benchmark: gives the metrics.
        seed: of the bootstrap behind the intervals of composites.
    """
    values = record_values(blocks, benchmark)
    result = {}
    for composite in composites_of(benchmark):
        table = _table(values, composite, benchmark)
        estimate = bootstrap([table], composite.combine, derive_seed(seed, "bootstrap", composite.symbol))
        result[composite.symbol] = Summary(_scaled(estimate, 100.0), composite.unit, composite.definition)
    for metric in benchmark.metrics:
        there = [value for value in values[metric.symbol] if value is not None]
        estimate = mean_interval(there, metric.interval, metric.bounds)
        result[metric.symbol] = Summary(_scaled(estimate, metric.scale), metric.unit, metric.definition)
    return result


def with_intervals(entries: Mapping[str, Mapping[str, Any]], computed: Mapping[str, Summary]) -> dict[str, Any]:
    """Return a run file's entries with their intervals as they are computed today.

    Args:
        entries: of a run file, of any definition of intervals.
        computed: the same metrics of the same records; one of another definition of the number itself keeps its own.
    """
    result = {}
    for name, entry in entries.items():
        now = computed.get(name)
        if now is None or entry.get("interval", 1) >= INTERVALS or entry["definition"] != now.definition:
            result[name] = dict(entry)
        else:
            result[name] = {**entry, "low": now.estimate.low, "high": now.estimate.high, "interval": INTERVALS}
    return result


def paired_differences(
    blocks: Sequence[Block], others: Sequence[Block], benchmark: Benchmark[Any], seed: int = 0
) -> dict[str, Summary]:
    """Return, for every metric, the mean over records of the first less the second, with its interval.

    Args:
        blocks: of one run, one for each record.
        others: of another run, the same records in the same order.
        benchmark: gives the metrics.
        seed: of the paired bootstrap of composites.
    """
    first, second = record_values(blocks, benchmark), record_values(others, benchmark)
    result = {}
    for composite in composites_of(benchmark):
        combine = composite.combine
        estimate = bootstrap(
            [_table(first, composite, benchmark), _table(second, composite, benchmark)],
            lambda a, b, combine=combine: combine(a) - combine(b),
            derive_seed(seed, "paired bootstrap", composite.symbol),
        )
        result[composite.symbol] = Summary(_scaled(estimate, 100.0), composite.unit, composite.definition)
    for metric in benchmark.metrics:
        estimate = difference_interval(_differences(first, second, metric), metric.interval, metric.bounds)
        result[metric.symbol] = Summary(_scaled(estimate, metric.scale), metric.unit, metric.definition)
    return result


def record_values(blocks: Sequence[Block], benchmark: Benchmark[Any]) -> Values:
    """Return the value of every metric for every record, unscaled."""
    return {metric.symbol: [metric.compute(block) for block in blocks] for metric in benchmark.metrics}


def composites_of(benchmark: Benchmark[Any]) -> list[Composite]:
    """Return the composite metrics that a benchmark has, in the order of their names."""
    return [COMPOSITES.get(name) for name in COMPOSITES if name in benchmark.composites]


def _differences(first: Values, second: Values, metric: Metric) -> list[float]:
    both = zip(first[metric.symbol], second[metric.symbol], strict=True)
    return [a - b for a, b in both if a is not None and b is not None]


def _table(values: Values, composite: Composite, benchmark: Benchmark[Any]) -> Rows:
    columns = [values[part] for part in benchmark.composites[composite.symbol]]
    return np.array(columns, dtype=np.float64).reshape(len(columns), -1).T


def _scaled(estimate: Estimate, scale: float) -> Estimate:
    value, low, high = (None if x is None else x * scale for x in (estimate.value, estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)
