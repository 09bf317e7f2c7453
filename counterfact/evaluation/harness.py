"""Evaluate an editor, or the unedited model, on a data set: chunk by chunk, resumable, the same bytes every time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from counterfact.contracts.editors import EditorSpec, Resources
from counterfact.core.datasets import Dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import one_writer, read_json, read_jsonl, write_json
from counterfact.core.records import BadRecord
from counterfact.core.settings import Resolved
from counterfact.evaluation.environment import Account, describe, peak_memory, seconds_by_stage
from counterfact.evaluation.folder import TIMINGS, UNFINISHED, begin, clear, disk_full_is_said, walk
from counterfact.evaluation.identity import Trial, check_unmoved, code_identity, editor_identity, trial_of
from counterfact.evaluation.rescore import fill_texts, rescore
from counterfact.evaluation.runners import Runner
from counterfact.evaluation.runners.local import LocalRunner
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import CASES, PRE, RUN, SCHEMA, Run, load_run, migrated, write_run
from counterfact.evaluation.task import Prepared, Task
from counterfact.evaluation.text_metrics import TextScorer, is_unscored
from counterfact.evaluation.text_pool import TextPool
from counterfact.evaluation.units import Computed, Unit
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan

PRE_FILE = "pre.json"
"""Marks the unedited model's values as finished, and says what they are."""
Progress = Callable[[str, int, int], None]
"""Told the pass ("unedited", an editor's name), how many records are done, and of how many."""


@dataclass(frozen=True)
class Options:
    """What a run chooses beside model, editor and data."""

    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    """Which records share an edit."""
    generate: bool = True
    """Whether texts are generated; without them there is no fluency and no consistency."""
    length: int = 100
    """Tokens of a text, its prompt included."""
    top_k: int = 5
    defer_text_metrics: bool = False
    """Keep texts and leave their metrics to `score_texts`, where nltk is not installed."""
    plan: Plan | None = None
    """Sizes of batches; `None`: those for the model on its kind of device."""
    max_memory: float | None = None
    """Bytes that a plan must be estimated to need at most, where `plan` is `None`."""
    trained_records: bool = False
    """Evaluate on records that the editor's network was trained on too; the run says how many they are."""
    restart: bool = False
    """Remove what an earlier run of the same identity left, and begin again."""
    runner: Runner | None = None
    """Who computes; `None`: this process alone. Results are the same bytes whoever does."""
    text_workers: int | None = None
    """Processes that measure texts beside each worker, while it goes on; `None`: one beside a GPU, none on a CPU."""
    progress: Progress | None = None

    @property
    def generation(self) -> dict[str, int] | None:
        """What a run's protocol says about generation."""
        return {"length": self.length, "top_k": self.top_k} if self.generate else None

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Return what reports the progress of one pass."""
        return lambda done, total: self.progress(stage, done, total) if self.progress else None


def evaluate(
    lm: LM,
    spec: EditorSpec,
    resolved: Resolved[Any],
    dataset: Dataset,
    results_folder: Path,
    *,
    resources: Resources | None = None,
    options: Options | None = None,
) -> Run:
    """Evaluate one editor on one data set, or go on where an interrupted run of the same identity stopped.

    Args:
        lm: the model.
        spec: the editor.
        resolved: its settings, of `spec.resolve`.
        dataset: records; bad ones are counted.
        results_folder: where results of all runs lie; the run's own folder below it is its identity.
        resources: what the editor may draw on.
        options: seed, generation, plan.

    Returns:
        The finished run; one that was finished before is read, not computed again.

    Raises:
        BadInput: an argument cannot be used, or the folder was begun with something else.
        OSError: the disk is full; what is finished stays.
    """
    options, resources = options or Options(), resources or Resources()
    spec.check_group_size(options.schedule.edits_at_once)
    trial = _trial(lm, dataset, options)
    settings = resolved.settings.model_dump()
    editor = editor_identity(lm, spec, resolved.settings.model_dump(mode="json"), resources)
    folder = results_folder / trial.edited_folder(editor)
    identity = {**trial.identity, "editor": editor, "code": code_identity()}
    texts = _text_scorer(dataset, options)
    runner, started = options.runner or LocalRunner(), datetime.now(UTC)
    with one_writer(folder, wait=False):
        if options.restart:
            clear(folder)
        if (folder / RUN).exists():
            return _finished(folder, identity, texts)
        begin(folder, identity)
        task = replace(
            _task(dataset, folder, options),
            schedule=options.schedule,
            editor=spec.name,
            settings=settings,
            resources=resources,
        )
        prepared = runner.prepare(lm, task, spec)
        seen = _count_seen(prepared, spec.name, dataset, allowed=options.trained_records)
        unedited = _evaluate_unedited(lm, trial, dataset, results_folder, options, runner, prepared)
        account = _compute(lm, task, runner, prepared, options.tell(spec.name))
        fill_texts(folder / CASES, "post", texts)
        notes: dict[str, Any] = {
            "given": resolved.given,
            "settings_source": resolved.source,
            "provenance": dict(prepared.provenance),
        }
        if seen:
            notes["seen_in_training"] = seen
        data = {"schema": SCHEMA, **identity, "editor": {**editor, **notes}, "unedited": unedited.name}
        environment = describe(prepared, account, dataset.path, started)
        environment |= {"runner": dict(runner.report()), "wall_seconds": _seconds(folder, unedited, prepared)}
        with disk_full_is_said(folder, len(dataset.records), len(dataset.records)):
            run = write_run(folder, data, environment)
        (folder / UNFINISHED).unlink(missing_ok=True)
    return run


def evaluate_unedited(lm: LM, dataset: Dataset, results_folder: Path, *, options: Options | None = None) -> Path:
    """Measure the unedited model on a data set, once for all editors; return the folder of `pre.jsonl`.

    Raises:
        BadInput, OSError: as `evaluate`.
    """
    options = options or Options()
    return _evaluate_unedited(
        lm, _trial(lm, dataset, options), dataset, results_folder, options, options.runner or LocalRunner()
    )


def _evaluate_unedited(
    lm: LM,
    trial: Trial,
    dataset: Dataset,
    results_folder: Path,
    options: Options,
    runner: Runner,
    prepared: Prepared | None = None,
) -> Path:
    """Do the work of `evaluate_unedited`; `prepared` says what the runner's workers are, where that is known."""
    folder, texts = results_folder / trial.unedited_folder, _text_scorer(dataset, options)
    identity = {**trial.unedited_identity, "code": code_identity()}
    started = datetime.now(UTC)
    with one_writer(folder, wait=True):
        if (folder / PRE_FILE).exists():
            before = migrated(read_json(folder / PRE_FILE), folder / PRE_FILE)
            check_unmoved(folder, before, identity, code=False)
            fill_texts(folder / PRE, "pre", texts)
            return folder
        if options.restart:
            clear(folder)
        begin(folder, identity)
        task = _task(dataset, folder, options)
        prepared = prepared or runner.prepare(lm, task, None)
        account = _compute(lm, task, runner, prepared, options.tell("unedited"))
        fill_texts(folder / PRE, "pre", texts)
        environment = describe(prepared, account, dataset.path, started) | {"runner": dict(runner.report())}
        with disk_full_is_said(folder, len(dataset.records), len(dataset.records)):
            write_json(folder / PRE_FILE, {"schema": SCHEMA, **identity, "environment": environment})
        (folder / UNFINISHED).unlink(missing_ok=True)
    return folder


def _compute(lm: LM, task: Task, runner: Runner, prepared: Prepared, progress: Callable[[int, int], None]) -> Account:
    """Take a pass through a runner into its folder."""
    account, records = Account(), task.dataset.records
    task = replace(task, plan=prepared.plan)
    side: Literal["pre", "post"] = "pre" if task.editor is None else "post"
    pool = TextPool(task.dataset.reference_texts, side, prepared.text_workers * runner.text_processes)
    name = PRE if task.editor is None else CASES

    def run(units: Sequence[Unit]) -> Iterator[Computed]:
        return pool.measured(account.watch(runner.run(task, units)))

    together = task.schedule.records_together(prepared.plan.chunk)
    walk(task.folder, name, records, together, run, progress)
    if runner.name == "local":
        account.note(peak_memory(lm.device))
    return account


def _task(dataset: Dataset, folder: Path, options: Options) -> Task:
    return Task(
        dataset=dataset,
        folder=folder.resolve(),
        seed=options.seed,
        length=options.length if _has_texts(dataset, options) else None,
        top_k=options.top_k,
        plan=options.plan,
        max_memory=options.max_memory,
        measure_texts=not options.defer_text_metrics,
        text_workers=options.text_workers,
    )


def _seconds(folder: Path, unedited: Path, prepared: Prepared) -> dict[str, float]:
    """Return seconds by stage, summed over workers, and of the unedited model's values."""
    seconds = {"prepare": prepared.seconds} | seconds_by_stage(read_jsonl(folder / TIMINGS))
    return seconds | {"unedited": round(sum(seconds_by_stage(read_jsonl(unedited / TIMINGS)).values()), 6)}


def _count_seen(prepared: Prepared, name: str, dataset: Dataset, *, allowed: bool) -> int:
    """Return on how many of the records the editor's network was trained; raise `BadInput` unless that is allowed."""
    if prepared.seen and not allowed:
        requests = sum(not isinstance(record, BadRecord) for record in dataset.records)
        raise BadInput(
            f"the network of {name} was trained on {len(prepared.seen)} of these {requests} records (first: "
            f"{prepared.seen[0]}): its scores on them say little. Evaluate on records that were reserved for "
            "evaluation, or force it with --trained-records, which the results then say"
        )
    return len(prepared.seen)


def _trial(lm: LM, dataset: Dataset, options: Options) -> Trial:
    if not dataset.records:
        raise BadInput(f"{dataset.path} holds no records")
    if _has_texts(dataset, options) and options.length > lm.max_length:
        raise BadInput(f"{lm.name} takes {lm.max_length} tokens at most; choose a shorter text than {options.length}")
    return trial_of(lm, dataset, seed=options.seed, generation=options.generation, schedule=options.schedule)


def _has_texts(dataset: Dataset, options: Options) -> bool:
    return options.generate and dataset.kind == "counterfact"


def _text_scorer(dataset: Dataset, options: Options) -> TextScorer | None:
    wanted = _has_texts(dataset, options) and not options.defer_text_metrics
    return TextScorer(dataset.reference_texts) if wanted else None


def _finished(folder: Path, identity: Mapping[str, Any], texts: TextScorer | None) -> Run:
    """Return a run that was finished before, its deferred texts scored if they are not deferred now."""
    run = load_run(folder)
    notes = ("given", "settings_source", "provenance")
    before = {**run.data, "editor": {name: value for name, value in run.data["editor"].items() if name not in notes}}
    check_unmoved(folder, before, identity, code=False)
    (folder / UNFINISHED).unlink(missing_ok=True)
    if texts is None or not any(is_unscored(line["post"]) for line in run.cases if "post" in line):
        return run
    return rescore(run, texts)
