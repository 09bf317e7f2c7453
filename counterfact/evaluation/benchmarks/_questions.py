"""Records of several benchmarks seen alike: what is asked about an edit and around it, with the answers."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any, NamedTuple

from counterfact.contracts.benchmarks import BENCHMARKS, benchmark_of
from counterfact.core.records import Record

from .counterfact import CounterFactRecord
from .zsre import ZsreRecord


class Neighbor(NamedTuple):
    """A question that an edit should leave alone."""

    prompt: str
    answer: str


class Questions(NamedTuple):
    """What is asked about one record."""

    answers: tuple[str, ...]
    """The new object, then other names of it."""
    paraphrases: tuple[str, ...]
    neighborhood: tuple[Neighbor, ...]


@singledispatch
def questions_of(record: Record) -> Questions:
    """Return the questions of a record; `ValueError` for one of a benchmark that has none of this form."""
    raise ValueError(f"expected a record with paraphrases and neighbors, got a {type(record).__name__}")


@questions_of.register
def _(record: CounterFactRecord) -> Questions:
    new, true = record.request.target_new, record.request.target_true
    # What is true of neighbors is the record's true object: without one they cannot be asked.
    neighbors = () if true is None else tuple(Neighbor(prompt, true) for prompt in record.neighborhood_prompts)
    return Questions((new,), tuple(record.paraphrase_prompts), neighbors)


@questions_of.register
def _(record: ZsreRecord) -> Questions:
    _, rephrased, unrelated = record.asked.values()
    neighbors = tuple(Neighbor(each.prompt, each.answer) for each in unrelated)
    return Questions(tuple(dict.fromkeys(record.answers)), tuple(each.prompt for each in rephrased), neighbors)


def parse_any(value: Mapping[str, Any], position: int) -> Record:
    """Read a record of whichever benchmark recognises it, and check that it has questions.

    Raises:
        ValueError: none recognises it, or its records have no questions of this form.
    """
    source = benchmark_of(value)
    if source is None:
        raise ValueError(f"expected a record of {', '.join(BENCHMARKS)}; got one with {', '.join(sorted(value))[:200]}")
    record: Record = source.parse(value, position)
    questions_of(record)
    return record


def rewrite_of(record: Record) -> dict[str, Any]:
    """Return the edit of any record as results hold it."""
    request = record.request
    known = {"relation_id": request.relation_id} if request.relation_id else {}
    true = {"target_true": {"str": request.target_true}} if request.target_true else {}
    target = {"target_new": {"str": request.target_new}}
    return {"prompt": request.prompt, "subject": request.subject, **known, **target, **true}
