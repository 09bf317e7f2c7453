"""Evaluate one chunk of records together: edit all, then score all, then generate for all.

Whatever goes wrong with one record costs that record: a stage that raises is tried again record by record.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from counterfact.contracts.editors import Editor
from counterfact.core.files import disk_full
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.asking import Job, State, generate_all, judge_all, measure_texts, score_all
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.products import packed_products
from counterfact.lm.planning.batch_plan import Plan, Split, is_out_of_memory

Stage = Literal["edit", "score", "judge", "generate", "text"]
STAGES: tuple[Stage, ...] = ("edit", "score", "judge", "generate", "text")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What is written down about one record: its line of results, and its line of times."""

    line: dict[str, Any]
    times: dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """What became of the requests of some records, by case id."""

    errors: Mapping[int, dict[str, str]] = field(default_factory=dict)
    """Stage and reason, of those that failed."""
    made: Mapping[int, Edit] = field(default_factory=dict)
    """The edit that holds the request, of the others."""
    seconds: Mapping[int, float] = field(default_factory=dict)


def run_chunk(job: Job, records: Sequence[Record | BadRecord]) -> list[Outcome]:
    """Return one outcome for each record, in order."""
    states = {record.case_id: State(record) for record in records if not isinstance(record, BadRecord)}
    groups = [
        [states[r.case_id] for r in group if r.case_id in states] for group in job.task.options.schedule.cut(records)
    ]
    with packed_products(job.lm):
        if (editor := job.editor) is not None:
            _stage("edit", job.plan, groups, lambda some: _edit(job, editor, some))
        return _measured(job, records, states)


def run_under(job: Job, records: Sequence[Record | BadRecord], edit: Edit, attempts: Attempt) -> list[Outcome]:
    """Return one outcome for each record, in order, measured under an edit that was made before, the same for all.

    Args:
        job: the pass.
        records: any number of them.
        edit: what they are measured under.
        attempts: what became of their own requests; a record whose request failed is not measured.
    """
    states = {}
    for record in records:
        if not isinstance(record, BadRecord):
            i = record.case_id
            seconds = {"edit": attempts.seconds[i]} if i in attempts.seconds else {}
            states[i] = State(record, attempts.errors.get(i), edit, attempts.made.get(i), seconds=seconds)
    with packed_products(job.lm):
        return _measured(job, records, states)


def _measured(job: Job, records: Sequence[Record | BadRecord], states: Mapping[int, State]) -> list[Outcome]:
    """Take states through the stages after their edits."""
    if job.task.options.chat_template:
        for state in states.values():
            if state.edit is not None and state.edit.context:
                state.fail("edit", "an edit that stands before a prompt has no place in a chat template")
    alone = [[state] for state in states.values()]
    _stage("score", job.plan, alone, lambda some: score_all(job, _flat(some)))
    if (judge := job.judge) is not None:
        _stage("judge", job.plan, alone, lambda some: judge_all(job, judge, _flat(some)))
    _stage("generate", job.plan, alone, lambda some: generate_all(job, _flat(some)))
    _stage("text", job.plan, alone, lambda some: measure_texts(job, _flat(some)))
    return [
        _unread(record) if isinstance(record, BadRecord) else _outcome(job, states[record.case_id])
        for record in records
    ]


def _stage(stage: Stage, plan: Plan, groups: Sequence[list[State]], work: Callable[[list[list[State]]], None]) -> None:
    """Do the work of one stage for all groups together, or group by group where that raises."""
    some = [left for group in groups if (left := [state for state in group if state.error is None])]
    if not some:
        return
    start = perf_counter()
    try:
        work(some)
    except Exception as error:
        if disk_full(error):
            raise
        logger.warning("%s: a chunk of %d failed (%s); trying one at a time", stage, len(some), reason_of(error))
        if is_out_of_memory(error):
            plan.splits.append(Split(stage, len(some)))
        for group in some:
            _alone(stage, group, work)
    states = _flat(some)
    for state in states:
        state.seconds[stage] = (perf_counter() - start) / len(states)


def _alone(stage: Stage, group: list[State], work: Callable[[list[list[State]]], None]) -> None:
    try:
        work([group])
    except Exception as error:
        if disk_full(error):
            raise
        for state in group:
            state.fail(stage, reason_of(error))


def _flat(groups: Sequence[list[State]]) -> list[State]:
    return [state for group in groups for state in group]


def reason_of(error: Exception) -> str:
    """Return an error as results hold it."""
    return f"{type(error).__name__}: {error}"


def _edit(job: Job, editor: Editor, groups: list[list[State]]) -> None:
    made = editor([[state.record.request for state in group] for group in groups], job.task.options.seed)
    if len(made) != len(groups):
        raise ValueError(f"expected what became of each of {len(groups)} groups, got {len(made)}")
    for group, edited in zip(groups, made, strict=True):
        reasons = {failure.id: failure.reason for failure in edited.failures}
        done = () if edited.edit is None else edited.edit.request_ids
        for state in group:
            if (case_id := state.record.case_id) in done:
                state.edit = edited.edit
            else:
                state.fail("edit", reasons.get(case_id, "the editor said nothing of this request"))


def _unread(record: BadRecord) -> Outcome:
    line = {"case_id": record.case_id, "error": {"stage": "read", "reason": record.reason}}
    return Outcome(line, {"case_id": record.case_id})


def _outcome(job: Job, state: State) -> Outcome:
    case_id = state.record.case_id
    times = {"case_id": case_id} | {stage: round(seconds, 6) for stage, seconds in state.seconds.items()}
    if state.error is not None:
        return Outcome({"case_id": case_id, "error": state.error}, times)
    line: dict[str, Any] = {
        "case_id": case_id,
        "requested_rewrite": job.benchmark.requested_rewrite(state.record),
        "target_tokens": state.target_tokens,
        job.task.side: state.block,
    }
    if (edit := state.made or state.edit) is not None:
        notes = dict(edit.diagnostics)
        if "update_frobenius" not in notes:
            notes["update_frobenius"] = edit.frobenius()
        line["edit"] = {name: value if math.isfinite(value) else None for name, value in notes.items()}
    return Outcome(line, times)
