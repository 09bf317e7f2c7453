"""Evaluate one chunk of records together: edit all, then score all, then generate for all.

Whatever goes wrong with one record costs that record: a stage that raises is tried again record by record.
"""

import logging
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any, Literal

from counterfact.contracts.benchmarks import Answers, Benchmark
from counterfact.contracts.editors import Editor
from counterfact.contracts.judges import Judge
from counterfact.core.files import disk_full
from counterfact.core.records import BadRecord, Record
from counterfact.core.references import ReferenceTexts
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.passages import text_perplexities
from counterfact.evaluation.task import Task
from counterfact.evaluation.text_metrics import TextScorer
from counterfact.lm.continuation import continuations
from counterfact.lm.drift import text_drifts
from counterfact.lm.edits.apply import Edit
from counterfact.lm.forward.packed_products import packed_products
from counterfact.lm.generation import Generation, before_end, clean_text, generate
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan, Split, is_out_of_memory
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score
from counterfact.lm.shifts import next_token_shifts

Stage = Literal["edit", "score", "judge", "generate", "text"]
STAGES: tuple[Stage, ...] = ("edit", "score", "judge", "generate", "text")
logger = logging.getLogger(__name__)


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
    _stage("score", job.plan, alone, lambda some: _score(job, _flat(some)))
    if (judge := job.judge) is not None:
        _stage("judge", job.plan, alone, lambda some: _judge(job, judge, _flat(some)))
    _stage("generate", job.plan, alone, lambda some: _generate(job, _flat(some)))
    _stage("text", job.plan, alone, lambda some: _measure_texts(job, _flat(some)))
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


def _edits_of(states: Sequence[State]) -> tuple[list[int], list[Edit]]:
    """Return the index of each state's edit (-1: unedited), and the edits, each once."""
    edits: dict[int, tuple[int, Edit]] = {}
    for state in states:
        if state.edit is not None:
            edits.setdefault(id(state.edit), (len(edits), state.edit))
    index = [-1 if state.edit is None else edits[id(state.edit)][0] for state in states]
    return index, [edit for _, edit in edits.values()]


def _score(job: Job, states: list[State]) -> None:
    queries = [job.queries(state.record) for state in states]
    of_state, edits = _edits_of(states)
    edit_index = [edit for edit, asked in zip(of_state, queries, strict=True) for _ in asked]
    scores = iter(score(job.lm, [query for asked in queries for query in asked], edit_index, edits, plan=job.plan))
    shifts = _shifts(job, states, of_state, edits)
    spoken = _continuations(job, states, of_state, edits)
    watched = _drifts(job, of_state, edits)
    for state, asked, moved, said, drifted in zip(states, queries, shifts, spoken, watched, strict=True):
        mine: list[Any] = [next(scores) for _ in asked]
        failed = [result for result in (*mine, *moved, *said, *drifted) if isinstance(result, Unscored)]
        if failed:
            state.fail("score", failed[0].reason)
        else:
            answers = Answers(mine, moved, said, drifted)
            state.block = job.benchmark.block(state.record, answers)
            state.target_tokens = job.benchmark.target_tokens(state.record, answers)


def _judge(job: Job, judge: Judge, states: Sequence[State]) -> None:
    """Put into each block the judge's verdicts on what the model said."""
    if (exchanges := job.benchmark.exchanges) is None:
        return
    asked = [list(exchanges(state.record, state.block)) for state in states]
    flat = [exchange for mine in asked for exchange in mine]
    given = judge.ask(flat)
    if len(given) != len(flat):
        raise ValueError(f"expected a verdict for each of {len(flat)} answers, got {len(given)}")
    verdicts = iter(given)
    for state, mine in zip(states, asked, strict=True):
        state.block["verdicts"] = [next(verdicts) for _ in mine]


def _shifts(job: Job, states: Sequence[State], of_state: Sequence[int], edits: Sequence[Edit]) -> list[list[Any]]:
    """Return for each record how far the next-token distributions moved that its benchmark asks about."""
    prompts = [[*map(job.asked, job.benchmark.shift_prompts(state.record))] for state in states]
    flat = [prompt for mine in prompts for prompt in mine]
    if not flat:
        return [[] for _ in states]
    index = [edit for edit, mine in zip(of_state, prompts, strict=True) for _ in mine]
    moved = iter(next_token_shifts(job.lm, flat, index, edits, plan=job.plan))
    return [[next(moved) for _ in mine] for mine in prompts]


def _continuations(
    job: Job, states: Sequence[State], of_state: Sequence[int], edits: Sequence[Edit]
) -> list[list[Any]]:
    """Return for each record what the model said to the open queries of its benchmark."""
    queries = [
        [query._replace(prompt=job.asked(query.prompt)) for query in job.benchmark.open_queries(state.record)]
        for state in states
    ]
    index = [edit for edit, mine in zip(of_state, queries, strict=True) for _ in mine]
    said = iter(continuations(job.lm, [query for mine in queries for query in mine], index, edits, plan=job.plan))
    return [[next(said) for _ in mine] for mine in queries]


def _drifts(job: Job, of_state: Sequence[int], edits: Sequence[Edit]) -> list[list[Any]]:
    """Return for each record how its edit changes what the model makes of the texts that its benchmark watches."""
    if not (watched := job.benchmark.watched):
        return [[] for _ in of_state]
    return [list(mine) for mine in text_drifts(job.lm, watched, of_state, edits, plan=job.plan)]


def _generate(job: Job, states: list[State]) -> None:
    if (length := job.task.length) is None or job.benchmark.generation_prompts is None:
        return
    prompts = [job.benchmark.generation_prompts(state.record) for state in states]
    of_state, edits = _edits_of(states)
    seeds = [
        derive_seed(job.task.options.seed, "generate", state.record.case_id, index)
        for state, mine in zip(states, prompts, strict=True)
        for index in range(len(mine))
    ]
    edit_index = [edit for edit, mine in zip(of_state, prompts, strict=True) for _ in mine]
    flat = [prompt for mine in prompts for prompt in mine]
    if not flat:
        return
    options = job.task.options
    made = generate(
        *(job.lm, [*map(job.asked, flat)], seeds, edit_index, edits),
        length=length,
        top_k=options.top_k,
        ending=before_end(job.lm, length) if options.stop_at_end else None,
        plan=job.plan,
    )
    generated = iter(made)
    for state, mine in zip(states, prompts, strict=True):
        results = [next(generated) for _ in mine]
        state.block["text"] = [_text(job, *pair) for pair in zip(mine, results, strict=True)]
        missing = {str(i): result.reason for i, result in enumerate(results) if isinstance(result, Unscored)}
        if missing:
            state.block["text_missing"] = missing


def _text(job: Job, prompt: str, result: Generation | Unscored) -> str | None:
    """Return a prompt and what the model went on with, without what a chat template puts around the prompt."""
    if isinstance(result, Unscored):
        return None
    if not job.task.options.chat_template:
        return result.text
    said = clean_text(job.lm, result.ids[result.given :])
    return f"{unicodedata.normalize('NFKD', prompt)} {said.lstrip()}"


def _measure_texts(job: Job, states: list[State]) -> None:
    """Fill in metrics of texts and perplexities of passages, where the benchmark has them."""
    if job.benchmark.generation_prompts is None:
        return
    passages, unmeasured = _perplexities(job, states), {metric.key: None for metric in job.benchmark.text_metrics}
    for state, perplexities in zip(states, passages, strict=True):
        texts = state.block.pop("text", [])
        missing = state.block.pop("text_missing", None)
        state.block |= unmeasured | perplexities | {"text": texts}
        if missing:
            state.block["text_missing"] = missing
        if job.texts is not None and texts:
            state.block |= job.texts.values(texts, job.benchmark.requested_rewrite(state.record))


def _perplexities(job: Job, states: Sequence[State]) -> list[dict[str, float | None]]:
    """Return for each record, by key of the block, the perplexity of each passage under its edit."""
    texts = job.task.dataset.reference_texts
    references = texts if texts is not None and job.task.length is not None else ReferenceTexts([])
    found = [dict(job.benchmark.passages(state.record, references)) for state in states]
    of_state, edits = _edits_of(states)
    there = [(i, key, text) for i, mine in enumerate(found) for key, text in mine.items() if text is not None]
    measured = text_perplexities(job.lm, [text for *_, text in there], [of_state[i] for i, *_ in there], edits)
    values: list[dict[str, float | None]] = [dict.fromkeys(mine) for mine in found]
    for (i, key, _), value in zip(there, measured, strict=True):
        values[i][key] = value
    return values


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
