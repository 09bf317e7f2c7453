"""What a benchmark is: how its records are read, what is asked of a model about each, and what is kept and shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from counterfact.contracts.judges import Exchange
from counterfact.contracts.metrics import METRICS, Metric, TextMetric, text_metrics
from counterfact.core.records import BadRecord, Border, Record, ReferenceTexts, check_request
from counterfact.core.registry import Registry
from counterfact.lm.queries import Continuation, Drift, OpenQuery, Query, Shift, TargetScore

R = TypeVar("R", bound=Record)
Notation = Literal["parentheses", "plus-minus"]
"""How half the width of an interval is printed, as in the paper's tables."""


@dataclass(frozen=True)
class Answers:
    """What the model said about one record."""

    scores: Sequence[tuple[TargetScore, ...]]
    """One for each of the benchmark's queries, in their order."""
    shifts: Sequence[Shift] = ()
    """One for each of its `shift_prompts`, in their order."""
    continuations: Sequence[Continuation] = ()
    """One for each of its `open_queries`, in their order."""
    drifts: Sequence[Drift] = ()
    """One for each of its `watched` texts, in their order."""


class Lesson(NamedTuple):
    """A record as something that a hypernetwork learns to edit in, and what it must leave alone."""

    target: str
    true: str | None
    paraphrases: Sequence[str]
    """Other prompts with the same target."""
    neighborhood: Sequence[str]
    """Prompts of other subjects whose answer is `true`."""


def _nothing(_record: Any) -> list[Any]:
    return []


@dataclass(frozen=True)
class Benchmark(Generic[R]):
    """One benchmark. Its records' type is R.

    A block, which is what `post` and `pre` of a record's results hold, has keys of these forms: `…_probs` are lists of
    `{"target_new", "target_true"}` in nats per token, `…_correct` lists of booleans, and others as the benchmark's
    metrics read them; keys of metrics of texts are added by the engine.
    """

    name: str
    """In run files and on the command line."""
    title: str
    """For people."""
    version: int
    """Raised whenever another number may come out."""
    paper: str
    parse: Callable[[Mapping[str, Any], int], R]
    """JSON object and its position in the file -> record; raises `ValueError`."""
    recognises: Callable[[Mapping[str, Any]], bool] | None
    """Whether a JSON object is a record of this benchmark; `None` for one that must be requested by name."""
    requested_rewrite: Callable[[R], dict[str, Any]]
    """The edit as results hold it, with `prompt`, `subject` and `target_new`."""
    queries: Callable[[R], list[Query]]
    """Everything that is scored about a record."""
    block: Callable[[R, Answers], dict[str, Any]]
    """What is kept of the answers."""
    block_form: type[Border]
    """The form of a block, which submissions are checked by."""
    target_tokens: Callable[[R, Answers], dict[str, int]]
    """Numbers of tokens of the targets."""
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    """Headings of its table, and the metrics below each."""
    composites: Mapping[str, tuple[str, ...]]
    """For each composite metric that it has, the metrics whose means go in; `S` always."""
    complete: Callable[[Sequence[R | BadRecord]], Sequence[R | BadRecord]] = field(default=lambda records: records)
    """Puts into each record what it must know of the others of its data set, in their order."""
    notation: Notation = "parentheses"
    generation_prompts: Callable[[R], list[str]] | None = None
    """Everything that a text is generated from; `None` where texts are no part of it."""
    shift_prompts: Callable[[R], list[str]] = _nothing
    """Prompts after which the edited model's next-token distribution is compared with the unedited model's."""
    open_queries: Callable[[R], list[OpenQuery]] = _nothing
    """Prompts that the model goes on with by itself, greedily, for as long as each says."""
    exchanges: Callable[[R, Mapping[str, Any]], Sequence[Exchange]] | None = None
    """Record and block -> what a judge is asked; its verdicts are kept in the block under `verdicts`, in this order.
    `None`: there is nothing to judge."""
    asked: Callable[[R], Mapping[str, Sequence[Query]]] | None = None
    """By metric, the queries whose log-likelihoods give it, for a program that knows nothing else: of two targets the
    first must be likelier per token; of a single one, the share of tokens that are the likeliest counts. The metric is
    the mean over records; of a record, over its queries with two targets, or over all tokens."""
    watched: tuple[str, ...] = ()
    """Texts, the same for all records, on which the edited model is compared with the unedited one at every token."""
    passages: Callable[[R, ReferenceTexts], Mapping[str, str | None]] = field(default=lambda _record, _texts: {})
    """By key of the block, a text whose perplexity is kept there; `None` where a record has none."""
    reference_key: Callable[[R], tuple[str | None, str | None]] = field(default=lambda _record: (None, None))
    """Relation and object that name a record's reference texts."""
    adopted_metrics: tuple[str, ...] = ()
    """Metrics of other benchmarks that its blocks can be measured by too."""
    lesson: Callable[[R], Lesson] | None = None
    """What hypernetworks learn from a record; raises `ValueError` for one that has nothing to learn. `None`: they
    cannot be trained on it."""
    released: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name and version of published files, by their sha256."""

    def on(self, dataset: str) -> str:
        """Return how tables call its use on a data set: by the data set alone, where that says it."""
        return dataset if self.recognises is not None else f"{self.title} on {dataset}"

    @property
    def shown(self) -> tuple[str, ...]:
        """Metrics of its table, in order."""
        return tuple(name for _, names in self.columns for name in names)

    @property
    def score_parts(self) -> tuple[str, ...]:
        """The metrics whose harmonic mean is Score S."""
        return self.composites["S"]

    @property
    def metrics(self) -> list[Metric]:
        """Its metrics, in the order of their names."""
        return [METRICS.get(name) for name in METRICS if self._has(METRICS.get(name))]

    @property
    def text_metrics(self) -> list[TextMetric]:
        """Those of them that read generated texts."""
        return [metric for metric in text_metrics() if self._has(METRICS.get(metric.symbol))]

    def read(self, value: object, position: int) -> Record | BadRecord:
        """Check one record read from a file.

        Args:
            value: the JSON value.
            position: its place in the file, its `case_id` where it has none.
        """
        if not isinstance(value, dict):
            return BadRecord(position, f"expected a JSON object, got {type(value).__name__}")
        case_id = value.get("case_id", position)
        if not isinstance(case_id, int) or isinstance(case_id, bool):
            return BadRecord(position, f"expected an integer case_id, got {case_id!r}")
        try:
            record = self.parse(value, position)
            check_request(record.request)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return BadRecord(case_id, f"{where}: {first['msg']}")
        except ValueError as error:
            return BadRecord(case_id, str(error))
        return record

    def _has(self, metric: Metric) -> bool:
        return self.name in metric.benchmarks or metric.symbol in self.adopted_metrics


BENCHMARKS: Registry[Benchmark[Any]] = Registry("benchmark", "evaluation.benchmarks")


def benchmark(spec: Benchmark[R]) -> Benchmark[R]:
    """Register a benchmark under its name."""
    BENCHMARKS.add(spec.name, spec)
    return spec


def benchmark_of(value: Mapping[str, Any]) -> Benchmark[Any] | None:
    """Return the benchmark that recognises a JSON object as one of its records."""
    known = (BENCHMARKS.get(name) for name in BENCHMARKS)
    return next((each for each in known if each.recognises is not None and each.recognises(value)), None)
