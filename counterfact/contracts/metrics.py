"""Numbers from what a model said: small pure functions, no model inside.

A metric maps one record's block of values to one number, or to `None` where the record has none. Means, intervals
and composites are taken in one place, `statistics.summary`, for all of them. A new metric is one new file here with
one decorated function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from counterfact.core.records import Kind
from counterfact.core.registry import Registry

Block = Mapping[str, Any]
"""What one record's `post` or `pre` holds, with the record's `target_tokens` beside it (see `statistics.summary`)."""
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """A definition: how one record's block becomes one number, and all that a table has to say of it."""

    symbol: str
    unit: str
    better: Better
    paper: str
    kind: Kind
    definition: int
    """Raised whenever the number can change; stored with every result."""
    bounds: tuple[float | None, float | None]
    """The least and the largest value of one record, before scaling."""
    scale: float
    """What a mean is multiplied by for print."""
    compute: Callable[[Block], float | None]

    @property
    def doc(self) -> str:
        """The definition in words, as its docstring has it."""
        return self.compute.__doc__ or ""


@dataclass(frozen=True)
class Composite:
    """A number made of the means of metrics, never of single records."""

    symbol: str
    unit: str
    better: Better
    paper: str
    definition: int
    parts: Mapping[Kind, tuple[str, ...]]
    """The metrics whose means go in, for each kind of record."""
    combine: Callable[[Any], Any]
    """Means, shape (..., parts), to values, shape (...)."""

    @property
    def doc(self) -> str:
        """The definition in words, as its docstring has it."""
        return self.combine.__doc__ or ""


METRICS: Registry[Metric] = Registry("metric", "metrics")
COMPOSITES: Registry[Composite] = Registry("composite metric", "metrics")


def metric(
    symbol: str,
    unit: str,
    better: Better,
    paper: str,
    kind: Kind,
    *,
    definition: int = 1,
    bounds: tuple[float | None, float | None] = (0.0, 1.0),
    scale: float = 100.0,
) -> Callable[[Callable[[Block], float | None]], Callable[[Block], float | None]]:
    """Register the decorated function as the metric `symbol`; its docstring is the definition."""

    def register(compute: Callable[[Block], float | None]) -> Callable[[Block], float | None]:
        METRICS.add(symbol, Metric(symbol, unit, better, paper, kind, definition, bounds, scale, compute))
        return compute

    return register


def metrics_of(kind: Kind) -> list[Metric]:
    """Return the metrics of one kind of record, in the order of their names."""
    return [METRICS.get(name) for name in METRICS if METRICS.get(name).kind == kind]


def composites_of(kind: Kind) -> list[Composite]:
    """Return the composites that one kind of record has, in the order of their names."""
    METRICS.discover()
    return [COMPOSITES.get(name) for name in COMPOSITES if kind in COMPOSITES.get(name).parts]
