"""A pass over a data set as data: what a run chooses, and what any worker needs to compute, here or elsewhere."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import Progress, Resources
from counterfact.contracts.judges import Judge, prepare_judge
from counterfact.contracts.metrics import TextMetric
from counterfact.core.errors import BadInput
from counterfact.core.records import BadRecord, Record
from counterfact.core.registry import load_plugin
from counterfact.evaluation.schedule import Schedule
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import Dtype, load_lm
from counterfact.lm.model.precision import Precision
from counterfact.lm.planning.batch_plan import Plan
from counterfact.statistics.summary import Side

if TYPE_CHECKING:
    from counterfact.evaluation.runners import Runner

UNTOUCHED = 200
"""Records that are never edited, of which a sequential run looks for known ones."""


@dataclass(frozen=True)
class JudgeSource:
    """How any worker comes by the judge of a run: by name, with the model that it asks."""

    name: str
    model: str | None = None
    """A folder or a Hub id, or `None` for a judge that asks no model."""
    device: str | None = None
    """`None`: the accelerator where there is one."""
    identity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Of the judge that it must be."""

    @classmethod
    def of(cls, name: str, model: str | None = None, device: str | None = None) -> "JudgeSource":
        """Return the source of a judge, which is opened to see what it is.

        Raises:
            BadInput: as `prepare_judge`, or there is no such model.
        """
        return cls(name, model, device, _open_judge(name, model, device).identity)

    def open(self) -> Judge:
        """Return the judge, opened once in a process.

        Raises:
            BadInput: as `prepare_judge`, or it is another one than the coordinator's.
        """
        found = _open_judge(self.name, self.model, self.device)
        if found.identity != self.identity:
            raise BadInput(f"the judge {self.name} is another one here: expected {self.identity}, got {found.identity}")
        return found


@lru_cache(maxsize=1)
def _open_judge(name: str, model: str | None, device: str | None) -> Judge:
    return prepare_judge(name, None if model is None else load_lm(model, device=device))


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


@dataclass(frozen=True)
class Task:
    """One pass: the unedited model, or one editor, on one data set."""

    dataset: Dataset
    folder: Path
    """Of the results of this pass."""
    options: Options
    editor: str | None = None
    """Name of the editor; `None`: the unedited model."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    key: str = field(default_factory=lambda: uuid4().hex)
    """Tells passes apart, so that a worker prepares each once."""

    @property
    def side(self) -> Side:
        """Whose values these are: the unedited model's or an editor's."""
        return "pre" if self.editor is None else "post"

    @property
    def length(self) -> int | None:
        """Tokens of a generated text, its prompt included; `None`: nothing is generated."""
        return self.options.length if self.options.generation(self.dataset.benchmark) else None

    @property
    def text_metrics(self) -> list[TextMetric]:
        """Metrics of texts that are taken while the pass goes on."""
        return self.options.text_metrics(self.dataset.benchmark)


@dataclass(frozen=True)
class Prepared:
    """What came of the preparation that all workers share."""

    plan: Plan
    """The plan in force, which fixes the units."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the prepared editor rests on."""
    seen: Sequence[int] = ()
    """Ids of records that the editor's network was trained on."""
    seconds: float = 0.0
    text_workers: int = 0
    """Processes that are to measure texts beside each worker."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Versions, device and threads of the worker."""
    needs_bytes: int = 0
    """What the plan is estimated to need."""

    def check(self, other: "Prepared", where: str) -> None:
        """Raise unless another worker prepared the same.

        Raises:
            BadInput: it did not; results would be of two kinds.
        """
        for name, mine, theirs in (
            ("plan", self.plan, other.plan),
            ("provenance", self.provenance, other.provenance),
            ("threads", self.machine["threads"], other.machine["threads"]),
            ("packages", self.machine["packages"], other.machine["packages"]),
        ):
            # The unedited model rests on nothing.
            if mine != theirs and theirs:
                raise BadInput(
                    f"the worker on {where} prepared another {name} than the first one ({theirs}, not {mine}): "
                    "workers must have one kind of device, the same packages, and one COUNTERFACT_CACHE"
                )


@dataclass(frozen=True)
class ModelSource:
    """How a worker in another process comes by the model and the editors."""

    name: str
    """A folder or a Hub id."""
    device: str | None
    """`None`: the accelerator if the worker has one."""
    dtype: Dtype
    identity: Mapping[str, str]
    """Of the model that it must be."""
    plugins: tuple[Path, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)
    """Where relative paths begin."""
    precision: Precision = "strict"

    def open(self) -> LM:
        """Load the model, and the plug-ins that register editors.

        Raises:
            BadInput: there is no such model, or it is another one than the coordinator's.
        """
        if self.cwd.is_dir():
            os.chdir(self.cwd)
        for path in self.plugins:
            load_plugin(path)
        lm = load_lm(self.name, device=self.device, dtype=self.dtype, precision=self.precision)
        if lm.identity != dict(self.identity):
            raise BadInput(f"{self.name} is another model here: expected {dict(self.identity)}, got {lm.identity}")
        return lm
