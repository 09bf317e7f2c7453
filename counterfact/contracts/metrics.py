"""What a metric is: a small pure function from what a model said about one record to a number, no model inside.

A metric maps one record's block of values to one number, or to `None` where the record has none; a metric of texts
maps the record's generated texts. Means, intervals and composites are taken in one place, `statistics.summary`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Literal

from counterfact.core.files import finite
from counterfact.core.records import ReferenceTexts
from counterfact.core.registry import Registry

Block = Mapping[str, Any]
"""What one record's `post` or `pre` holds, with the record's `target_tokens` beside it (see `statistics.summary`)."""
Better = Literal["higher", "lower", "neither"]
Bounds = tuple[float | None, float | None]
"""The least and the largest value of one record, `None` where there is none."""
IntervalRule = Literal["wilson", "plus_four", "student"]
"""For records that are 0 or 1, for values between two bounds, for others; see `statistics.intervals`."""


@dataclass(frozen=True)
class Metric:
    """A definition: how one record's block becomes one number, and all that a table has to say of it."""

    symbol: str
    unit: str
    better: Better
    paper: str
    benchmarks: tuple[str, ...]
    """Names of the benchmarks whose blocks it reads."""
    definition: int
    """Raised whenever the number can change; stored with every result."""
    bounds: Bounds
    """The least and the largest value of one record, before scaling."""
    interval: IntervalRule
    """How its interval is computed."""
    scale: float
    """What a mean is multiplied by for print."""
    compute: Callable[[Block], float | None]
    doc: str
    """The definition in words."""


TextMeasure = Callable[[Sequence[str], Mapping[str, Any]], float | None]
"""The generated texts of one record and its `requested_rewrite` -> a number, or `None` where there is none."""


@dataclass(frozen=True)
class TextMetric:
    """The part of a metric that reads generated texts; its value is kept in the block."""

    symbol: str
    key: str
    """Of the block."""
    prepare: Callable[[ReferenceTexts | None], TextMeasure]
    """Reference texts of a data set -> what measures its records."""
    needs: tuple[str, ...]
    """Packages that must be installed."""
    missing: str
    """Why a record with texts may have no value."""
    collapsed_below: float | None = None
    """A model whose mean is below this share of the unedited one's has collapsed; `None`: the metric does not tell."""


@dataclass(frozen=True)
class Composite:
    """A number made of the means of metrics, never of single records; each benchmark says which go in."""

    symbol: str
    unit: str
    better: Better
    paper: str
    definition: int
    combine: Callable[[Any], Any]
    """Means, shape (..., parts), to values, shape (...)."""

    @property
    def doc(self) -> str:
        """The definition in words, as its docstring has it."""
        return self.combine.__doc__ or ""


METRICS: Registry[Metric] = Registry("metric", "metrics")
COMPOSITES: Registry[Composite] = Registry("composite metric", "metrics")
TEXT_METRICS: Registry[TextMetric] = Registry("metric of texts", "metrics")


def metric(
    symbol: str,
    unit: str,
    better: Better,
    paper: str,
    *benchmarks: str,
    definition: int = 1,
    bounds: Bounds = (0.0, 1.0),
    interval: IntervalRule | None = None,
    scale: float = 100.0,
) -> Callable[[Callable[[Block], float | None]], Callable[[Block], float | None]]:
    """Register the decorated function as the metric `symbol`; its docstring is the definition.

    Args:
        symbol: in tables.
        unit, better, paper, benchmarks, definition, bounds, scale: as `Metric`.
        interval: as `Metric`; by default that for values between the bounds, or without.
    """

    def register(compute: Callable[[Block], float | None]) -> Callable[[Block], float | None]:
        doc, rule = compute.__doc__ or "", interval or _usual_rule(bounds)
        METRICS.add(
            symbol, Metric(symbol, unit, better, paper, benchmarks, definition, bounds, rule, scale, compute, doc)
        )
        return compute

    return register


def text_metric(
    symbol: str,
    key: str,
    unit: str,
    better: Better,
    paper: str,
    *benchmarks: str,
    needs: tuple[str, ...] = (),
    missing: str = "no value",
    collapsed_below: float | None = None,
    definition: int = 1,
    bounds: Bounds = (0.0, 1.0),
    interval: IntervalRule | None = None,
    scale: float = 100.0,
) -> Callable[[Callable[[ReferenceTexts | None], TextMeasure]], Callable[[ReferenceTexts | None], TextMeasure]]:
    """Register the decorated function, which prepares what measures texts, as the metric `symbol`.

    Args:
        symbol: in tables.
        key: of the block, where a record's value is kept.
        unit, better, paper, benchmarks, definition, bounds, interval, scale: as for `metric`.
        needs: packages that it imports when it is used.
        missing: why a record with texts may have no value.
        collapsed_below: as `TextMetric`.
    """

    def register(
        prepare: Callable[[ReferenceTexts | None], TextMeasure],
    ) -> Callable[[ReferenceTexts | None], TextMeasure]:
        def stored(block: Block) -> float | None:
            return finite(block.get(key))

        metric(
            symbol,
            unit,
            better,
            paper,
            *benchmarks,
            definition=definition,
            bounds=bounds,
            interval=interval,
            scale=scale,
        )(update_wrapper(stored, prepare))
        TEXT_METRICS.add(symbol, TextMetric(symbol, key, prepare, needs, missing, collapsed_below))
        return prepare

    return register


def _usual_rule(bounds: Bounds) -> IntervalRule:
    return "student" if None in bounds else "plus_four"


def text_metrics() -> list[TextMetric]:
    """Return all metrics of texts, in the order of their names."""
    METRICS.discover()
    return [TEXT_METRICS.get(name) for name in TEXT_METRICS]
