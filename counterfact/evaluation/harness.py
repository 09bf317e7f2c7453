"""Evaluate an editor, or the unedited model, on a data set: chunk by chunk, resumable, the same bytes every time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS
from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import EditorSpec, Resources
from counterfact.contracts.judges import JUDGES
from counterfact.core.errors import BadInput
from counterfact.core.files import one_writer, read_json, read_jsonl, write_json
from counterfact.core.provenance import code_identity
from counterfact.core.records import BadRecord
from counterfact.core.runs import RUN
from counterfact.core.settings import Resolved
from counterfact.evaluation.asking import Job
from counterfact.evaluation.environment import Account, describe, peak_memory, seconds_by_stage
from counterfact.evaluation.folder import TIMINGS, UNFINISHED, Computed, Unit, begin, clear, disk_full_is_said, walk
from counterfact.evaluation.identity import Trial, check_unmoved, editor_identity, trial_of
from counterfact.evaluation.known import known_records
from counterfact.evaluation.rescore import rescore
from counterfact.evaluation.retention import sequence_of
from counterfact.evaluation.runners import Runner
from counterfact.evaluation.runners.local import LocalRunner
from counterfact.evaluation.sequential import SequentialRun
from counterfact.evaluation.store import CASES, PRE, SCHEMA, Run, lines_of, load_run, migrated, write_run
from counterfact.evaluation.task import UNTOUCHED, Options, Prepared, Task
from counterfact.evaluation.text_metrics import TextScorer, fill_texts
from counterfact.evaluation.text_pool import TextPool
from counterfact.lm.model.language_model import LM

PRE_FILE = "pre.json"
"""Marks the unedited model's values as finished, and says what they are."""


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
    editor = check_editor(lm, spec, resolved, resources, options)
    if options.schedule.sequential:
        options = _alone(options)
    trial = _trial(lm, dataset, options)
    settings = resolved.settings.model_dump()
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
        told = options.progress if runner.name == "local" else None  # who shows progress cannot be sent
        resources = replace(resources, progress=told)
        task = Task(dataset, folder.resolve(), options.for_workers(), spec.name, settings, resources)
        prepared = runner.prepare(lm, task, spec)
        seen = _count_seen(prepared, spec.name, dataset, allowed=options.trained_records)
        unedited = _evaluate_unedited(lm, trial, dataset, results_folder, options, runner, prepared)
        if options.schedule.sequential and isinstance(runner, LocalRunner):
            account = _follow(runner.job(task), spec, options, unedited, options.tell(spec.name))
        else:
            account = _compute(lm, task, runner, prepared, options.tell(spec.name))
        for path in lines_of(folder):
            fill_texts(path, "post", texts)
        notes: dict[str, Any] = {
            "given": resolved.given,
            "settings_source": resolved.source,
            "provenance": dict(prepared.provenance),
        }
        if seen:
            notes["seen_in_training"] = seen
        data = {
            "kind": options.kind,
            "schema": SCHEMA,
            **identity,
            "editor": {**editor, **notes},
            "unedited": unedited.name,
        }
        if options.schedule.sequential:
            data["sequence"] = sequence_of(folder, unedited, dataset.benchmark, options.seed)
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
            (folder / UNFINISHED).unlink(missing_ok=True)  # of a process that was killed right after the end
            fill_texts(folder / PRE, "pre", texts)
            return folder
        if options.restart:
            clear(folder)
        begin(folder, identity)
        task = Task(dataset, folder.resolve(), options.for_workers())
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
    task = replace(task, options=replace(task.options, plan=prepared.plan))
    pool = TextPool(task.dataset, task.side, prepared.text_workers * runner.text_processes)
    name = PRE if task.editor is None else CASES

    def run(units: Sequence[Unit]) -> Iterator[Computed]:
        return pool.measured(account.watch(runner.run(task, units)))

    together = task.options.schedule.records_together(prepared.plan.chunk)
    walk(task.folder, name, records, together, run, progress)
    if runner.name == "local":
        account.note(peak_memory(lm.device))
    return account


def _follow(
    job: Job, spec: EditorSpec, options: Options, unedited: Path, progress: Callable[[int, int], None]
) -> Account:
    """Take a sequential run through all its steps."""
    account = Account()
    known = known_records(job.lm, options.untouched[:UNTOUCHED], plan=job.plan)
    SequentialRun(job, spec.most_at_once, known, unedited, account).run(progress)
    account.note(peak_memory(job.lm.device))
    return account


def check_editor(
    lm: LM, spec: EditorSpec, resolved: Resolved[Any], resources: Resources, options: Options
) -> dict[str, Any]:
    """Return what the runs of an editor are known by, before anything is computed.

    Raises:
        BadInput: it cannot edit so many facts at once, or its trained network is not there.
    """
    if not options.schedule.sequential:
        spec.check_group_size(options.schedule.edits_at_once)
    return editor_identity(lm, spec, resolved.settings.model_dump(mode="json"), resources)


def _alone(options: Options) -> Options:
    """Return what a sequential run chooses: one process computes it, and measures its texts.

    Raises:
        BadInput: another runner is to compute it.
    """
    if options.runner is not None and options.runner.name != "local":
        raise BadInput("edits one after another are one chain, which the local runner alone computes")
    return replace(options, text_workers=0)


def _seconds(folder: Path, unedited: Path, prepared: Prepared) -> dict[str, float]:
    """Return seconds by stage, summed over workers, and of the unedited model's values."""
    files = [path.with_name(TIMINGS) for path in lines_of(folder)]
    seconds = {"prepare": prepared.seconds} | seconds_by_stage(time for path in files for time in read_jsonl(path))
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
    generation = options.generation(dataset.benchmark)
    if generation is not None and options.chat_template:
        generation["template"] = lm.encoding.chat_tokens  # they come on top of a text's length
    if generation is not None and options.length + generation.get("template", 0) > lm.max_length:
        raise BadInput(f"{lm.name} takes {lm.max_length} tokens at most; choose a shorter text than {options.length}")
    untouched = options.untouched[:UNTOUCHED] if options.schedule.sequential else ()
    return trial_of(
        *(lm, dataset),
        seed=options.seed,
        generation=generation,
        schedule=options.schedule,
        chat_template=options.chat_template,
        untouched=untouched,
        judge=_judge_of(dataset, options),
    )


def _judge_of(dataset: Dataset, options: Options) -> Mapping[str, Any] | None:
    """Return the identity of the judge; raise `BadInput` where there is one and nothing to judge, or the reverse."""
    judged = dataset.benchmark.exchanges is not None
    if judged and options.judge is None:
        raise BadInput(
            f"{dataset.benchmark.title} needs a judge: --judge-model MODEL for a local model, or --judge NAME; known: "
            f"{', '.join(JUDGES)}"
        )
    if not judged and options.judge is not None:
        names = [name for name in BENCHMARKS if BENCHMARKS.get(name).exchanges is not None]
        raise BadInput(f"{dataset.benchmark.title} has nothing for a judge; choose --benchmark {' or '.join(names)}")
    return None if options.judge is None else options.judge.identity


def _text_scorer(dataset: Dataset, options: Options) -> TextScorer | None:
    metrics = options.text_metrics(dataset.benchmark)
    return TextScorer(metrics, dataset.reference_texts) if metrics else None


def _finished(folder: Path, identity: Mapping[str, Any], texts: TextScorer | None) -> Run:
    """Return a run that was finished before, its deferred texts scored if they are not deferred now."""
    run = load_run(folder)
    notes = ("given", "settings_source", "provenance")
    before = {**run.data, "editor": {name: value for name, value in run.data["editor"].items() if name not in notes}}
    check_unmoved(folder, before, identity, code=False)
    (folder / UNFINISHED).unlink(missing_ok=True)
    if texts is None or not any(texts.is_unscored(line["post"]) for line in run.cases if "post" in line):
        return run
    return rescore(run, texts)
