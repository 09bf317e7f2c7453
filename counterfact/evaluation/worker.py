"""A worker: a model and a prepared editor, loaded once, that compute one unit after the other."""

from dataclasses import replace
from functools import cached_property
from time import perf_counter

import torch

from counterfact.contracts.editors import EDITORS, Editor, EditorSpec, provenance, seen_in_training
from counterfact.core.records import BadRecord
from counterfact.evaluation.asking import Job
from counterfact.evaluation.chunks import run_chunk
from counterfact.evaluation.environment import machine, peak_memory
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.task import ModelSource, Prepared, Task
from counterfact.evaluation.text_metrics import TextScorer
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import TEXT, Plan, Shape, default_plan
from counterfact.lm.planning.memory import needs, plan_within


class Worker:
    """Computes units in this process.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LM) -> None:
        self.lm = lm
        self._jobs: dict[str, tuple[Task, Job, Prepared]] = {}

    def take(self, task: Task, spec: EditorSpec | None = None) -> Prepared:
        """Prepare a pass, once; the editor of an earlier one is let go.

        Args:
            task: the pass.
            spec: its editor; `None`: the one registered under the task's name.

        Raises:
            BadInput: the editor cannot be prepared.
        """
        if task.key in self._jobs:
            return self._jobs[task.key][2]
        start = perf_counter()
        editor, plan = None, self._plan(task)
        if task.editor is not None:
            self._jobs = {key: taken for key, taken in self._jobs.items() if taken[0].editor is None}
            spec = spec or EDITORS.get(task.editor)
            resources = replace(task.resources, plan=task.resources.plan or plan)
            editor = spec.prepare(self.lm, spec.settings.check(task.settings, task.editor), resources)
        job = self._job(task, editor, plan)
        requests = [record.request for record in task.dataset.records if not isinstance(record, BadRecord)]
        prepared = Prepared(
            plan=job.plan,
            needs_bytes=round(needs(Shape.of(self.lm), plan, task.length or TEXT).total),
            provenance={} if editor is None else provenance(editor),
            seen=[] if editor is None else seen_in_training(editor, requests),
            seconds=round(perf_counter() - start, 6),
            text_workers=self._text_workers(task),
            machine=machine(self.lm.device),
        )
        self._jobs[task.key] = (task, job, prepared)
        return prepared

    def job(self, key: str) -> Job:
        """Return what is the same for all units of the pass `key`, which was taken before."""
        return self._jobs[key][1]

    def run(self, key: str, unit: Unit) -> Computed:
        """Compute one unit of the pass `key`, which was taken before."""
        _, job, _ = self._jobs[key]
        splits = len(job.plan.splits)
        outcomes = run_chunk(job, job.records[unit.start : unit.stop])
        return Computed(unit, outcomes, job.plan.splits[splits:], peak_memory(self.lm.device))

    def _text_workers(self, task: Task) -> int:
        if not task.text_metrics:
            return 0
        # On a processor the device's work and the texts' would only take the cores from each other.
        given = task.options.text_workers
        return given if given is not None else int(self.lm.device.type != "cpu")

    def _plan(self, task: Task) -> Plan:
        """Return the plan of one pass: what it has to halve is noted in it, and is no other pass's."""
        given = task.options
        if given.plan is None and given.max_memory is not None:
            return plan_within(Shape.of(self.lm), given.max_memory, task.length or TEXT)
        return replace(given.plan or default_plan(self.lm), splits=[])

    def _job(self, task: Task, editor: Editor | None, plan: Plan) -> Job:
        inline = task.text_metrics if not self._text_workers(task) else []
        texts = TextScorer(inline, task.dataset.reference_texts) if inline else None
        judge = task.options.judge
        return Job(self.lm, task, plan, editor, texts, None if judge is None else judge.open())


class RemoteWorker:
    """A worker that opens its model itself, in a process of its own.

    Args:
        source: of the model and the editors.
        threads: of every product, the same for all workers: a sum over threads is rounded by their number.
    """

    def __init__(self, source: ModelSource, threads: int) -> None:
        self._source = source
        self._threads = threads

    @cached_property
    def _worker(self) -> Worker:
        torch.set_num_threads(self._threads)
        return Worker(self._source.open())

    def take(self, task: Task) -> Prepared:
        """Open the model if that was not done yet, and prepare a pass; see `Worker.take`."""
        return self._worker.take(task)

    def run(self, key: str, unit: Unit) -> Computed:
        """Compute one unit; see `Worker.run`."""
        return self._worker.run(key, unit)
