"""What the stages of a pass over a data set are given, and what they fill in for each record."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.editors import Editor
from counterfact.contracts.judges import Judge
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.task import Task
from counterfact.evaluation.text_metrics import TextScorer
from counterfact.lm.edits.apply import Edit
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import OpenQuery, Query


@dataclass(frozen=True)
class Job:
    """What is the same for all chunks of a pass over a data set."""

    lm: LM
    task: Task
    plan: Plan
    editor: Editor | None
    """`None`: the unedited model."""
    texts: TextScorer | None
    """`None`: metrics of texts are taken elsewhere, or later."""
    judge: Judge | None = None
    """Who judges what the model says, for a benchmark with something to judge."""

    @property
    def benchmark(self) -> Benchmark[Any]:
        """What is asked about each record."""
        return self.task.dataset.benchmark

    def asked(self, prompt: str) -> str:
        """Return a prompt as the model is given it."""
        return self.lm.encoding.in_chat(prompt) if self.task.options.chat_template else prompt

    def queries(self, record: Record) -> list[Query]:
        """Return what is scored about a record; an answer in a chat is joined to nothing."""
        queries = self.benchmark.queries(record)
        if not self.task.options.chat_template:
            return queries
        return [replace(query, prompt=self.asked(query.prompt), joiner="") for query in queries]

    def open_queries(self, record: Record) -> list[OpenQuery]:
        """Return what the model is to answer by itself about a record."""
        return [query._replace(prompt=self.asked(query.prompt)) for query in self.benchmark.open_queries(record)]

    @cached_property
    def records(self) -> Sequence[Record | BadRecord]:
        """The records of the data set, each with what its benchmark tells it of the others."""
        return self.benchmark.complete(self.task.dataset.records)


@dataclass
class State:
    """One record on its way through the stages."""

    record: Record
    error: dict[str, str] | None = None
    edit: Edit | None = None
    """What it is measured under."""
    made: Edit | None = None
    """What was made of its request, where that is another edit."""
    block: dict[str, Any] = field(default_factory=dict)
    target_tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def fail(self, stage: str, reason: str) -> None:
        """Record what went wrong; the record is passed over from here on."""
        self.error = {"stage": stage, "reason": reason}
