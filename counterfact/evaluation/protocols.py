"""What is asked of a model about one record, and how the answers are written down: CounterFact and zsRE.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, sections 3.3 and 3.4.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfact.core.records import CounterFactRecord, Kind, Record, ZsreRecord
from counterfact.lm.scoring import Query, TargetScore

Scores = Sequence[tuple[TargetScore, ...]]
COUNTERFACT_SORTS = ("rewrite", "paraphrase", "neighborhood", "attribute")
ZSRE_SORTS = ("rewrite", "paraphrase", "neighborhood")


@dataclass(frozen=True)
class Protocol:
    """How one kind of record is evaluated."""

    name: Kind
    version: int
    """Raised whenever another number may come out."""
    requested_rewrite: Callable[[Any], dict[str, Any]]
    queries: Callable[[Any], list[Query]]
    """Everything that is scored about a record."""
    block: Callable[[Any, Scores], dict[str, Any]]
    """The scores of `queries`, in their order, as `cases.jsonl` holds them."""
    target_tokens: Callable[[Any, Scores], dict[str, int]]
    generation_prompts: Callable[[Any], list[str]]
    """Everything that a text is generated from."""


def counterfact_queries(record: CounterFactRecord) -> list[Query]:
    """Return one query for each of the 1 + 2 + 10 + 10 prompts, each with the new and the true object."""
    rewrite = record.requested_rewrite
    targets = (rewrite.target_new.text, rewrite.target_true.text)
    return [Query(prompt, targets) for prompts in _counterfact_prompts(record).values() for prompt in prompts]


def counterfact_block(record: CounterFactRecord, scores: Scores) -> dict[str, Any]:
    """Return `{sort}_prompts_probs`: nats per target token, `None` where the model gave no number (NaN, infinity)."""
    block: dict[str, Any] = {}
    start = 0
    for sort, prompts in _counterfact_prompts(record).items():
        block[f"{sort}_prompts_probs"] = [
            {"target_new": _finite(new.mean_nll), "target_true": _finite(true.mean_nll)}
            for new, true in scores[start : start + len(prompts)]
        ]
        start += len(prompts)
    return block


def zsre_queries(record: ZsreRecord) -> list[Query]:
    """Return the question, its rephrasing, and the unrelated question with a question mark, each with its answer.

    The unrelated question is scored against its true answer, not against what the unedited model said.
    """
    answer = (record.answers[0],)
    return [Query(record.src, answer), Query(record.rephrase, answer), Query(f"{record.loc}?", (record.loc_ans,))]


def zsre_block(_record: ZsreRecord, scores: Scores) -> dict[str, Any]:
    """Return `{sort}_prompts_correct`: for each token of the answer, whether the model put it first."""
    return {f"{sort}_prompts_correct": list(score.correct) for sort, (score,) in zip(ZSRE_SORTS, scores, strict=True)}


def _counterfact_prompts(record: CounterFactRecord) -> dict[str, list[str]]:
    lists = (
        [record.request.filled],
        record.paraphrase_prompts,
        record.neighborhood_prompts,
        record.attribute_prompts,
    )
    return dict(zip(COUNTERFACT_SORTS, lists, strict=True))


def _counterfact_rewrite(record: CounterFactRecord) -> dict[str, Any]:
    return record.requested_rewrite.model_dump(by_alias=True)


def _zsre_rewrite(record: ZsreRecord) -> dict[str, Any]:
    request = record.request
    return {"prompt": request.prompt, "subject": request.subject, "target_new": {"str": request.target_new}}


def _counterfact_tokens(_record: CounterFactRecord, scores: Scores) -> dict[str, int]:
    new, true = scores[0]
    return {"new": new.tokens, "true": true.tokens}


def _zsre_tokens(_record: ZsreRecord, scores: Scores) -> dict[str, int]:
    return {"new": scores[0][0].tokens, "neighborhood": scores[2][0].tokens}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


PROTOCOLS: Mapping[Kind, Protocol] = {
    "counterfact": Protocol(
        name="counterfact",
        version=1,
        requested_rewrite=_counterfact_rewrite,
        queries=counterfact_queries,
        block=counterfact_block,
        target_tokens=_counterfact_tokens,
        generation_prompts=lambda record: list(record.generation_prompts),
    ),
    "zsre": Protocol(
        name="zsre",
        version=1,
        requested_rewrite=_zsre_rewrite,
        queries=zsre_queries,
        block=zsre_block,
        target_tokens=_zsre_tokens,
        generation_prompts=lambda _record: [],
    ),
}


def protocol_of(record: Record) -> Protocol:
    """Return the protocol by which a record is evaluated."""
    return PROTOCOLS["counterfact" if isinstance(record, CounterFactRecord) else "zsre"]
