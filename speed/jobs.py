"""The main job done in two ways, many records at once and one after the other, with a clock for each stage."""

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from counterfact.contracts.editors import EDITORS, Resources, edit_singly
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.products import packed_products, packs_products
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Query, TargetScore
from counterfact.lm.scoring import score
from speed.machine import forget_peak, peak_memory, synchronize
from speed.one_at_a_time import OneAtATime, scored_prompts
from speed.operations import OperationCounter
from speed.setting import Setting

STAGES = ("edit", "score", "generate")
UNEDITED = "unedited"
"""A stage of one side alone: the unedited model scored and gone on with for each record again."""


class Way(NamedTuple):
    """A side, and what computes its products."""

    side: Literal["one_at_a_time", "ours"]
    packed: bool
    """Whether by oneDNN with packed weights; else by what torch takes by itself."""

    @property
    def name(self) -> str:
        """A key for files."""
        return f"{self.side}_packed" if self.packed else self.side

    @contextmanager
    def products(self, lm: LM) -> Iterator[None]:
        """Let the products within the block be computed so."""
        with ExitStack() as stack:
            if self.packed:
                stack.enter_context(packed_products(lm))
            elif self.side == "ours" and packs_products(lm):
                stack.enter_context(_without_packing())
            yield


@contextmanager
def _without_packing() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # of another maker's devices
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@dataclass
class Times:
    """Seconds a record by stage, one entry for each turn, and the most memory that a stage had in use."""

    device: torch.device
    counting: bool = False
    """Count operations in products as well, attention's included; then the seconds mean nothing."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    gflop: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    """1e9 operations a record."""
    peak: dict[str, float] = field(default_factory=dict)
    """1e9 bytes."""

    @contextmanager
    def of(self, stage: str, records: int) -> Iterator[None]:
        """Measure a stage of some records, to the moment at which the device is done."""
        counter = OperationCounter()
        forget_peak(self.device)
        synchronize(self.device)
        with ExitStack() as stack:
            if self.counting:
                # The counter does not see packed products; without oneDNN the same ones are torch's own.
                stack.enter_context(_without_packing())
                stack.enter_context(counter)
            start = time.perf_counter()
            yield
            synchronize(self.device)
            self.seconds.setdefault(stage, []).append((time.perf_counter() - start) / records)
        if self.counting:
            self.gflop.setdefault(stage, []).append(counter.total / records / 1e9)
        self.peak[stage] = max(self.peak.get(stage, 0.0), peak_memory(self.device))

    def turns(self, stage: str) -> list[float]:
        """The stage's entries; `total`: their sums, turn by turn."""
        if stage == "total":
            return [sum(parts) for parts in zip(*(self.seconds[part] for part in STAGES), strict=True)]
        return self.seconds[stage]

    def mean(self, stage: str) -> float:
        """Mean over the turns."""
        turns = self.turns(stage)
        return sum(turns) / len(turns)

    def operations(self, stage: str) -> float | None:
        """1e9 operations a record, if they were counted."""
        if stage == "total":
            parts = [self.operations(part) for part in STAGES]
            return None if None in parts else sum(part for part in parts if part is not None)
        return sum(self.gflop[stage]) / len(self.gflop[stage]) if self.gflop[stage] else None


@dataclass(frozen=True)
class Outcome:
    """What one of the ways came to, of its first records, for comparison."""

    nats: list[list[list[float]]] = field(default_factory=list)
    """Mean nats of the new and the true target, by record and prompt."""
    updates: list[Tensor] = field(default_factory=list)
    """Changes of the weight."""
    passes: list[int] = field(default_factory=list)
    """Forward passes of each record's search."""


def many_at_once(
    setting: Setting,
    records: Sequence[CounterFactRecord],
    length: int,
    times: Times,
    *,
    plan: Plan | None = None,
    compared: int = 0,
) -> Outcome:
    """Do the job with our code, all records in one call for each stage; the first few are kept to be compared.

    Raises:
        ValueError: a record could not be edited, scored or gone on with.
    """
    lm, count = setting.lm, len(records)
    edits = _edit(setting, records, times, plan)
    owners = [i for i, record in enumerate(records) for _ in scored_prompts(record)]
    queries = [
        Query(prompt, (record.requested_rewrite.target_new.text, record.requested_rewrite.true_text))
        for record in records
        for prompt in scored_prompts(record)
    ]
    with times.of("score", count):
        scores = score(lm, queries, owners, edits, plan=plan)
    writers = [i for i, record in enumerate(records) for _ in record.generation_prompts]
    prompts = [prompt for record in records for prompt in record.generation_prompts]
    seeds = [derive_seed(0, i) for i in range(len(prompts))]
    with times.of("generate", count):
        texts = generate(lm, prompts, seeds, writers, edits, length=length, plan=plan)
    failed = [item for item in (*scores, *texts) if not isinstance(item, tuple | Generation)]
    if failed:
        raise ValueError(f"a record could not be measured: {failed[0].reason}")
    found = iter(scores)
    nats = [[_means(next(found)) for _ in scored_prompts(record)] for record in records[:compared]]
    updates = [edit.deltas[0].weight_change for edit in edits[:compared]]
    return Outcome(nats, updates, [int(edit.diagnostics["steps"]) for edit in edits])


def _edit(setting: Setting, records: Sequence[CounterFactRecord], times: Times, plan: Plan | None) -> list[Edit]:
    with tempfile.TemporaryDirectory() as folder:  # values found by an earlier turn must not be found again
        resources = Resources(
            second_moments={setting.settings.layer: setting.moment},
            context_templates=setting.templates,
            cache=Path(folder),
            plan=plan,
        )
        editor = EDITORS.get("rome").prepare(setting.lm, setting.settings, resources)
        with times.of("edit", len(records)):
            made = edit_singly(editor, [record.request for record in records], 0)
    edits = [edit for edit in made if isinstance(edit, Edit)]
    if len(edits) < len(records):
        reason = next(edit.reason for edit in made if not isinstance(edit, Edit))
        raise ValueError(f"a record could not be edited: {reason}; choose other records")
    return edits


def _means(found: Any) -> list[float]:
    return [item.mean_nll if isinstance(item, TargetScore) else float("nan") for item in found]


def one_by_one(baseline: OneAtATime, records: Sequence[CounterFactRecord], length: int, times: Times) -> Outcome:
    """Do the job one record after the other, and before it score and go on with the unedited model."""
    outcome = Outcome()
    for record in records:
        with times.of(UNEDITED, 1):
            baseline.score(record)
            baseline.generate(record, length)
        with times.of("edit", 1):
            change = baseline.edit(record.request)
        with baseline.edited(change):
            with times.of("score", 1):
                outcome.nats.append(baseline.score(record))
            with times.of("generate", 1):
                baseline.generate(record, length)
        outcome.updates.append(torch.outer(*change))
    return outcome


def deviations(ours: Outcome, theirs: Outcome) -> dict[str, float]:
    """Return how far two ways are apart on the records that both did, at worst."""
    nats = [
        abs(a - b)
        for one, other in zip(ours.nats, theirs.nats, strict=False)
        for pair, pair_other in zip(one, other, strict=True)
        for a, b in zip(pair, pair_other, strict=True)
    ]
    updates = [float((a - b).norm() / b.norm()) for a, b in zip(ours.updates, theirs.updates, strict=False)]
    return {"nats_largest": max(nats), "update_relative_largest": max(updates)}
