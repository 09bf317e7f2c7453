"""What a run chooses beside model, editor and data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.editors import Progress
from counterfact.contracts.metrics import TextMetric
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.judging import JudgeSource
from counterfact.evaluation.schedule import Schedule
from counterfact.lm.planning.batch_plan import Plan

if TYPE_CHECKING:
    from counterfact.evaluation.runners import Runner


UNTOUCHED = 200
"""Records that are never edited, of which a sequential run looks for known ones."""


@dataclass(frozen=True)
class Options:
    """What a run chooses beside model, editor and data."""

    kind: Literal["evaluation", "sweep"] = "evaluation"
    """What the run says that it is: tables and boards leave the runs of a sweep out."""
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    """Which records share an edit."""
    generate: bool = True
    """Whether texts are generated; without them there is no fluency and no consistency."""
    length: int = 100
    """Tokens of a text, its prompt included."""
    top_k: int = 5
    stop_at_end: bool = False
    """Whether a text ends at the model's end token; the paper's protocol goes on to the full length."""
    chat_template: bool = False
    """Whether all that is asked is put as a user's message, by the model's chat template; edits are made without it."""
    defer_text_metrics: bool = False
    """Keep texts and leave their metrics to `score_texts`, where nltk is not installed."""
    judge: JudgeSource | None = None
    """Who judges what the model says by itself, for a benchmark with something to judge."""
    plan: Plan | None = None
    """Sizes of batches; `None`: those for the model on its kind of device."""
    max_memory: float | None = None
    """Bytes that a plan must be estimated to need at most, where `plan` is `None`."""
    trained_records: bool = False
    """Evaluate on records that the editor's network was trained on too; the run says how many they are."""
    restart: bool = False
    """Remove what an earlier run of the same identity left, and begin again."""
    untouched: tuple[Record | BadRecord, ...] = ()
    """Records that a sequential run never edits: on those whose facts the unedited model knows, it is asked at every
    checkpoint what it still knows."""
    runner: "Runner | None" = None
    """Who computes; `None`: this process alone. Results are the same bytes whoever does."""
    text_workers: int | None = None
    """Processes that measure texts beside each worker, while it goes on; `None`: one beside a GPU, none on a CPU."""
    progress: Progress | None = None
    """Told of each pass ("unedited", an editor's name) how many records are done and of how many, and of what an editor
    prepares that takes long."""

    def generation(self, benchmark: Benchmark[Any]) -> dict[str, int] | None:
        """Return what a run's protocol says of generated texts; `None` where there are none."""
        has_texts = self.generate and benchmark.generation_prompts is not None
        told = {"length": self.length, "top_k": self.top_k, **({"stop_at_end": 1} if self.stop_at_end else {})}
        return told if has_texts else None

    def text_metrics(self, benchmark: Benchmark[Any]) -> list[TextMetric]:
        """Return the metrics of texts that are taken in this run, and not deferred."""
        return benchmark.text_metrics if self.generation(benchmark) and not self.defer_text_metrics else []

    def for_workers(self) -> "Options":
        """Return what a worker in another process needs to know."""
        return replace(self, untouched=(), runner=None, progress=None)

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Return what reports the progress of one pass."""
        return lambda done, total: self.progress(stage, done, total) if self.progress else None
