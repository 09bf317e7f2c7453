"""What a model is asked about records: each stage asks about all records of a chunk together, each under its edit.

The stages of a pass are given a `Job`, and fill in a `State` for each record.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from counterfact.contracts.benchmarks import Answers, Benchmark
from counterfact.contracts.editors import Editor
from counterfact.contracts.judges import Exchange, Judge
from counterfact.core.records import BadRecord, Record, ReferenceTexts
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.task import Task
from counterfact.evaluation.text_metrics import TextScorer
from counterfact.lm.continuation import continuations
from counterfact.lm.drift import next_token_shifts, text_drifts, text_perplexities
from counterfact.lm.edits.edit import Edit
from counterfact.lm.generation import Generation, before_end, clean_text, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import OpenQuery, Query, Unscored
from counterfact.lm.scoring import score

Q = TypeVar("Q")
A = TypeVar("A")


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


def score_all(job: Job, states: Sequence[State]) -> None:
    """Fill in the blocks: what the model makes of everything that the benchmark asks about each record."""
    of_state, edits = _edits_of(states)

    def ask(asked: Sequence[Sequence[Q]], answer: Callable[..., Iterable[Any]]) -> list[list[Any]]:
        return _of_each(asked, of_state, lambda flat, index: answer(job.lm, flat, index, edits, plan=job.plan))

    records, benchmark = [state.record for state in states], job.benchmark
    scores = ask([job.queries(record) for record in records], score)
    shifts = ask([[*map(job.asked, benchmark.shift_prompts(record))] for record in records], next_token_shifts)
    spoken = ask([job.open_queries(record) for record in records], continuations)
    watched = _drifts(job, of_state, edits)
    for state, mine, moved, said, drifted in zip(states, scores, shifts, spoken, watched, strict=True):
        failed = [result for result in (*mine, *moved, *said, *drifted) if isinstance(result, Unscored)]
        if failed:
            state.fail("score", failed[0].reason)
        else:
            answers = Answers(mine, moved, said, drifted)
            state.block = benchmark.block(state.record, answers)
            state.target_tokens = benchmark.target_tokens(state.record, answers)


def judge_all(job: Job, judge: Judge, states: Sequence[State]) -> None:
    """Put into each block the judge's verdicts on what the model said."""
    if (exchanges := job.benchmark.exchanges) is None:
        return

    def ask(flat: Sequence[Exchange], _: Sequence[int]) -> Sequence[bool | None]:
        given = judge.ask(flat)
        if len(given) != len(flat):
            raise ValueError(f"expected a verdict for each of {len(flat)} answers, got {len(given)}")
        return given

    asked = [list(exchanges(state.record, state.block)) for state in states]
    for state, verdicts in zip(states, _of_each(asked, [-1] * len(states), ask), strict=True):
        state.block["verdicts"] = verdicts


def _drifts(job: Job, of_state: Sequence[int], edits: Sequence[Edit]) -> list[list[Any]]:
    """Return for each record how its edit changes what the model makes of the texts that its benchmark watches."""
    if not (watched := job.benchmark.watched):
        return [[] for _ in of_state]
    return [list(mine) for mine in text_drifts(job.lm, watched, of_state, edits, plan=job.plan)]


def generate_all(job: Job, states: Sequence[State]) -> None:
    """Put generated texts into the blocks, where the benchmark has any."""
    if (length := job.task.length) is None or job.benchmark.generation_prompts is None:
        return
    options = job.task.options
    length += job.lm.encoding.chat_tokens if options.chat_template else 0
    prompts = [job.benchmark.generation_prompts(state.record) for state in states]
    of_state, edits = _edits_of(states)
    seeds = [
        derive_seed(options.seed, "generate", state.record.case_id, index)
        for state, mine in zip(states, prompts, strict=True)
        for index in range(len(mine))
    ]

    def go_on(flat: Sequence[str], index: Sequence[int]) -> list[Generation | Unscored]:
        return generate(
            *(job.lm, [*map(job.asked, flat)], seeds, index, edits),
            length=length,
            top_k=options.top_k,
            ending=before_end(job.lm, length) if options.stop_at_end else None,
            plan=job.plan,
        )

    for state, mine, results in zip(states, prompts, _of_each(prompts, of_state, go_on), strict=True):
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


def measure_texts(job: Job, states: Sequence[State]) -> None:
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


def _edits_of(states: Sequence[State]) -> tuple[list[int], list[Edit]]:
    """Return the index of each state's edit (-1: unedited), and the edits, each once."""
    edits: dict[int, tuple[int, Edit]] = {}
    for state in states:
        if state.edit is not None:
            edits.setdefault(id(state.edit), (len(edits), state.edit))
    index = [-1 if state.edit is None else edits[id(state.edit)][0] for state in states]
    return index, [edit for _, edit in edits.values()]


def _of_each(
    asked: Sequence[Sequence[Q]], of_state: Sequence[int], answer: Callable[[list[Q], list[int]], Iterable[A]]
) -> list[list[A]]:
    """Ask everything at once, and hand the answers out again.

    Args:
        asked: what is asked about each record.
        of_state: index of each record's edit.
        answer: everything that is asked, and the index of the edit of each -> one answer for each.
    """
    flat = [each for mine in asked for each in mine]
    index = [edit for edit, mine in zip(of_state, asked, strict=True) for _ in mine]
    answers = iter(answer(flat, index) if flat else ())
    return [[next(answers) for _ in mine] for mine in asked]
