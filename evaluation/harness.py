"""Evaluate an editor, or the unedited model, on a data set: chunk by chunk, resumable, the same bytes every time."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from core.datasets import Dataset
from core.errors import BadInput
from core.files import one_writer, read_json, read_jsonl, write_json
from core.records import BadRecord
from core.settings import Resolved
from editors import Editor, EditorSpec, Resources, provenance, seen_in_training
from evaluation.chunks import Job, run_chunk
from evaluation.environment import describe, seconds_by_stage
from evaluation.folder import TIMINGS, UNFINISHED, begin, disk_full_is_said, walk
from evaluation.identity import Subject, check_unmoved, code_identity, editor_identity, subject_of
from evaluation.protocols import PROTOCOLS
from evaluation.rescore import fill_texts, rescore
from evaluation.store import CASES, PRE, RUN, SCHEMA, Run, load_run, migrated, write_run
from evaluation.text_metrics import TextScorer, is_unscored
from lm.loading import LM
from lm.memory import plan_within
from lm.plan import Plan, Shape, default_plan

PRE_FILE = "pre.json"
"""Marks the unedited model's values as finished, and says what they are."""
Progress = Callable[[str, int, int], None]
"""Told the pass ("unedited", an editor's name), how many records are done, and of how many."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a run chooses beside model, editor and data."""

    seed: int = 0
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
    subject = _subject(lm, dataset, options)
    editor = editor_identity(lm, spec, resolved.settings.model_dump(mode="json"), resources)
    folder = results_folder / subject.edited_folder(editor)
    identity = {**subject.identity, "editor": editor, "code": code_identity()}
    texts = _text_scorer(dataset, options)
    started = datetime.now(UTC)
    with one_writer(folder, wait=False):
        if options.restart:
            _clear(folder)
        if (folder / RUN).exists():
            return _finished(folder, identity, texts)
        begin(folder, identity)
        start = perf_counter()
        plan = _plan(lm, options)
        prepared = spec.prepare(lm, resolved.settings, replace(resources, plan=resources.plan or plan))
        seconds = {"prepare": round(perf_counter() - start, 6)}
        seen = _seen_in_training(prepared, spec.name, dataset, allowed=options.trained_records)
        unedited = _evaluate_unedited(lm, subject, dataset, results_folder, options, texts)
        job = _job(lm, dataset, options, prepared, texts, plan)
        walk(folder, CASES, dataset.records, job.plan.chunk, lambda part: run_chunk(job, part), options.tell(spec.name))
        fill_texts(folder / CASES, "post", job.texts)
        seconds |= seconds_by_stage(read_jsonl(folder / TIMINGS))
        seconds["unedited"] = round(sum(seconds_by_stage(read_jsonl(unedited / TIMINGS)).values()), 6)
        notes: dict[str, Any] = {
            "given": resolved.given,
            "settings_source": resolved.source,
            "provenance": provenance(prepared),
        }
        if seen:
            notes["seen_in_training"] = seen
        data = {"schema": SCHEMA, **identity, "editor": {**editor, **notes}, "unedited": unedited.name}
        environment = describe(lm, job.plan, dataset.path, started, options.length) | {"wall_seconds": seconds}
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
    subject, texts = _subject(lm, dataset, options), _text_scorer(dataset, options)
    return _evaluate_unedited(lm, subject, dataset, results_folder, options, texts)


def _evaluate_unedited(
    lm: LM, subject: Subject, dataset: Dataset, results_folder: Path, options: Options, texts: TextScorer | None
) -> Path:
    folder = results_folder / subject.unedited_folder
    identity = {**subject.identity, "code": code_identity()}
    started = datetime.now(UTC)
    with one_writer(folder, wait=True):
        job = _job(lm, dataset, options, None, texts, _plan(lm, options))
        if (folder / PRE_FILE).exists():
            before = migrated(read_json(folder / PRE_FILE), folder / PRE_FILE)
            check_unmoved(folder, before, identity, code=False)
            fill_texts(folder / PRE, "pre", job.texts)
            return folder
        if options.restart:
            _clear(folder)
        begin(folder, identity)
        walk(folder, PRE, dataset.records, job.plan.chunk, lambda part: run_chunk(job, part), options.tell("unedited"))
        fill_texts(folder / PRE, "pre", job.texts)
        environment = describe(lm, job.plan, dataset.path, started, options.length)
        with disk_full_is_said(folder, len(dataset.records), len(dataset.records)):
            write_json(folder / PRE_FILE, {"schema": SCHEMA, **identity, "environment": environment})
        (folder / UNFINISHED).unlink(missing_ok=True)
    return folder


def _seen_in_training(prepared: Editor, name: str, dataset: Dataset, *, allowed: bool) -> int:
    """Return on how many of the records the editor's network was trained; raise `BadInput` unless that is allowed."""
    requests = [record.request for record in dataset.records if not isinstance(record, BadRecord)]
    seen = seen_in_training(prepared, requests)
    if seen and not allowed:
        raise BadInput(
            f"the network of {name} was trained on {len(seen)} of these {len(requests)} records (first: {seen[0]}): "
            "its scores on them say little. Evaluate on records that were reserved for evaluation, or force it with "
            "--trained-records, which the results then say"
        )
    return len(seen)


def _subject(lm: LM, dataset: Dataset, options: Options) -> Subject:
    if not dataset.records:
        raise BadInput(f"{dataset.path} holds no records")
    if _has_texts(dataset, options) and options.length > lm.max_length:
        raise BadInput(f"{lm.name} takes {lm.max_length} tokens at most; choose a shorter text than {options.length}")
    return subject_of(lm, dataset, seed=options.seed, generation=options.generation)


def _has_texts(dataset: Dataset, options: Options) -> bool:
    return options.generate and dataset.kind == "counterfact"


def _text_scorer(dataset: Dataset, options: Options) -> TextScorer | None:
    wanted = _has_texts(dataset, options) and not options.defer_text_metrics
    return TextScorer(dataset.reference_texts) if wanted else None


def _plan(lm: LM, options: Options) -> Plan:
    """Return the plan of one run: what it has to halve is noted in it, and is no other run's."""
    if options.plan is None and options.max_memory is not None:
        return plan_within(Shape.of(lm), options.max_memory, options.length)
    return replace(options.plan or default_plan(lm), splits=[])


def _job(
    lm: LM, dataset: Dataset, options: Options, editor: Editor | None, texts: TextScorer | None, plan: Plan
) -> Job:
    return Job(
        lm=lm,
        protocol=PROTOCOLS[dataset.kind],
        plan=plan,
        seed=options.seed,
        side="pre" if editor is None else "post",
        editor=editor,
        length=options.length if _has_texts(dataset, options) else None,
        top_k=options.top_k,
        references=dataset.reference_texts,
        texts=texts,
    )


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


def _clear(folder: Path) -> None:
    logger.info("removing what is in %s to begin again", folder)
    for path in folder.iterdir():
        path.unlink()
