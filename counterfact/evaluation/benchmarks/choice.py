"""Multiple choice: whether an edited model puts the right object before all others of its relation.

Its questions are made from any CounterFact records. The choices are the new object, the true one, and up to eight that
other records of the data set have in the same relation, drawn by the record's number. Two objects alone, as in
CounterFact's own scores, can both have become likelier than they were, or both be beaten by a third.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import Answers, Benchmark, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.files import finite
from counterfact.core.records import BadRecord, Border, Request
from counterfact.core.seeds import derive_seed
from counterfact.lm.queries import Query
from counterfact.statistics.values import mean

from .counterfact import (
    CounterFactRecord,
    Nats,
    Pairs,
    PromptsBySort,
    nats_of_both,
    requested_rewrite,
    target_tokens,
)
from .counterfact import parse as parse_counterfact

NAME, PAPER = "choice", "this project"
OTHERS = 8
"""Most choices beside the new and the true object."""
NEW, TRUE = 0, 1
"""Where these two stand among the choices."""


@dataclass(frozen=True)
class ChoiceRecord:
    """A CounterFact record, and the other objects that are offered."""

    record: CounterFactRecord
    others: tuple[str, ...] = ()

    @property
    def case_id(self) -> int:
        """Its number in the data set."""
        return self.record.case_id

    @property
    def request(self) -> Request:
        """The fact that an editor is to change."""
        return self.record.request

    @property
    def choices(self) -> tuple[str, ...]:
        """The new object, the true one, and the others."""
        request = self.record.request
        return (request.target_new, str(request.target_true), *self.others)

    @property
    def prompts(self) -> PromptsBySort:
        """By sort, the prompts after which a choice is made."""
        return {sort: prompts for sort, prompts in self.record.scored_prompts.items() if sort != "attribute"}


class Choices(Border):
    """Nats of every choice after one prompt, the new object first and the true one second."""

    total: Annotated[list[Nats | None], Field(min_length=2, max_length=100)]
    """Of the whole object."""
    per_token: Annotated[list[Nats | None], Field(min_length=2, max_length=100)]


ChoicesOfPrompts = Annotated[list[Choices], Field(max_length=1000)]


class ChoiceBlock(Border):
    """`post` or `pre` of a record."""

    choices: Annotated[list[str], Field(min_length=2, max_length=100)]
    rewrite_prompts_probs: Pairs
    paraphrase_prompts_probs: Pairs
    neighborhood_prompts_probs: Pairs
    rewrite_prompts_choices: ChoicesOfPrompts
    paraphrase_prompts_choices: ChoicesOfPrompts
    neighborhood_prompts_choices: ChoicesOfPrompts


def parse(value: Mapping[str, Any], position: int) -> ChoiceRecord:
    """Read one CounterFact record; the other objects are not known before all records are.

    Raises:
        ValueError: as for CounterFact, or it has no true object.
    """
    record = parse_counterfact(value, position)
    if record.requested_rewrite.target_true is None:
        raise ValueError("expected a true object, which is one of the choices")
    return ChoiceRecord(record)


def with_others(records: Sequence[ChoiceRecord | BadRecord]) -> list[ChoiceRecord | BadRecord]:
    """Give each record the other objects that it offers, drawn from those of its relation in all records."""
    objects: dict[str | None, set[str]] = {}
    for each in records:
        if not isinstance(each, BadRecord):
            objects.setdefault(each.request.relation_id, set()).update(each.choices)
    return [each if isinstance(each, BadRecord) else _offering(each, objects) for each in records]


def _offering(record: ChoiceRecord, objects: Mapping[str | None, set[str]]) -> ChoiceRecord:
    relation = record.request.relation_id
    pool = [] if relation is None else sorted(objects[relation] - set(record.choices))
    draw = random.Random(derive_seed(0, "choices", record.case_id))
    return replace(record, others=tuple(draw.sample(pool, min(OTHERS, len(pool)))))


def queries(record: ChoiceRecord) -> list[Query]:
    """Return one query for each prompt, with all choices."""
    joiner = record.request.joiner
    return [Query(prompt, record.choices, joiner) for prompts in record.prompts.values() for prompt in prompts]


def block(record: ChoiceRecord, answers: Answers) -> dict[str, Any]:
    """Return the choices, `{sort}_prompts_probs` of the first two, and `{sort}_prompts_choices` of all."""
    scores = iter(answers.scores)
    found: dict[str, Any] = {"choices": list(record.choices)}
    found |= nats_of_both(record.prompts, Answers([mine[:2] for mine in answers.scores]))
    for sort, prompts in record.prompts.items():
        found[f"{sort}_prompts_choices"] = [
            {
                "total": [finite(score.nll) for score in mine],
                "per_token": [finite(score.mean_nll) for score in mine],
            }
            for mine in (next(scores) for _ in prompts)
        ]
    return found


@metric("choice", "% of records", "higher", PAPER, NAME, interval="wilson")
def choice(block: Block) -> float | None:
    """Efficacy by choice: whether, after the edited prompt, the new object is the likeliest of all choices per token.

    The choices are the new object, the true one and others of the relation. They are compared by mean nats per token,
    as CounterFact's scores are, so that long objects are no less likely for their length. A tie, or a choice without a
    number, is a failure.

    >>> nats = {"total": [4.0, 3.0, 9.0], "per_token": [1.0, 3.0, 3.0]}
    >>> choice({"rewrite_prompts_choices": [nats]})
    1.0
    """
    return _share(block, "rewrite", "per_token", NEW)


@metric("choice_para", "% of prompts", "higher", PAPER, NAME)
def choice_paraphrase(block: Block) -> float | None:
    """Generalization by choice: the share of paraphrases after which the new object is the likeliest per token.

    >>> first, tie = {"per_token": [1.0, 3.0, 3.0]}, {"per_token": [2.0, 3.0, 2.0]}
    >>> choice_paraphrase({"paraphrase_prompts_choices": [first, tie]})
    0.5
    """
    return _share(block, "paraphrase", "per_token", NEW)


@metric("choice_near", "% of prompts", "higher", PAPER, NAME)
def choice_neighborhood(block: Block) -> float | None:
    """Specificity by choice: the share of prompts about neighbors where the true object is the likeliest per token.

    >>> choice_neighborhood({"neighborhood_prompts_choices": [{"per_token": [4.0, 3.0, 3.5]}]})
    1.0
    """
    return _share(block, "neighborhood", "per_token", TRUE)


@metric("whole", "% of records", "higher", PAPER, NAME, interval="wilson")
def whole(block: Block) -> float | None:
    """Efficacy by choice of whole objects: as `choice`, by the probability of the whole object, not per token.

    Long objects are at a disadvantage.

    >>> whole({"rewrite_prompts_choices": [{"total": [4.0, 3.0, 9.0], "per_token": [1.0, 3.0, 3.0]}]})
    0.0
    """
    return _share(block, "rewrite", "total", NEW)


@metric("whole_para", "% of prompts", "higher", PAPER, NAME)
def whole_paraphrase(block: Block) -> float | None:
    """Generalization by choice of whole objects: the share of paraphrases after which the new object is the likeliest.

    >>> whole_paraphrase({"paraphrase_prompts_choices": [{"total": [1.0, 3.0]}, {"total": [1.0, None]}]})
    0.5
    """
    return _share(block, "paraphrase", "total", NEW)


@metric("whole_near", "% of prompts", "higher", PAPER, NAME)
def whole_neighborhood(block: Block) -> float | None:
    """Specificity by choice of whole objects: the share of neighbors' prompts after which the true object is likeliest.

    >>> whole_neighborhood({"neighborhood_prompts_choices": [{"total": [4.0, 3.0, 3.5]}]})
    1.0
    """
    return _share(block, "neighborhood", "total", TRUE)


def _share(block: Block, sort: str, measure: str, right: int) -> float | None:
    """Return the share of prompts of one sort after which the choice at index `right` is the likeliest."""
    asked = block.get(f"{sort}_prompts_choices") or []
    return mean([float(_wins(nats[measure], right)) for nats in asked])


def _wins(nats: Sequence[float | None], right: int) -> bool:
    known = [each for each in nats if each is not None]
    return len(known) == len(nats) and all(known[right] < each for i, each in enumerate(known) if i != right)


CHOICE = benchmark(
    Benchmark(
        name=NAME,
        title="Multiple choice",
        version=1,
        paper=PAPER,
        parse=parse,
        recognises=None,
        complete=with_others,
        requested_rewrite=lambda each: requested_rewrite(each.record),
        queries=queries,
        block=block,
        block_form=ChoiceBlock,
        target_tokens=lambda each, answers: target_tokens(
            each.record, Answers([mine[:2] for mine in answers.scores[:1]])
        ),
        columns=(
            ("Two objects", ("ES", "PS", "NS")),
            ("Choice, per token", ("choice", "choice_para", "choice_near")),
            ("Choice, whole", ("whole", "whole_para", "whole_near")),
        ),
        composites={"S": ("choice", "choice_para", "choice_near")},
        adopted_metrics=("ES", "PS", "NS"),
    )
)
