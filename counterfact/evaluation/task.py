"""A pass over a data set as data: what any worker needs to compute its units, in this process or in another."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import Resources
from counterfact.contracts.metrics import TextMetric
from counterfact.core.errors import BadInput
from counterfact.core.registry import load_plugin
from counterfact.evaluation.options import Options
from counterfact.lm.model.loading import LM, Dtype, load_lm
from counterfact.lm.model.precision import Precision
from counterfact.lm.planning.batch_plan import Plan
from counterfact.statistics.summary import Side


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
