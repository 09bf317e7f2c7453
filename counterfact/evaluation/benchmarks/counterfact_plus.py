"""CounterFact+: neighbors asked right after the edited fact, and how far next-token distributions move there.

Hoelscher-Obermaier, Persson, Kran, Konstas, Barez. Detecting Edit Failures in Large Language Models: An Improved
Specificity Benchmark. Findings of ACL 2023. https://arxiv.org/abs/2305.17553

Its prompts are those that a record brings, else they are made, so that any CounterFact records will do.
"""

from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import Answers, Benchmark, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Border
from counterfact.lm.queries import Shift
from counterfact.statistics.values import magnitude, mean, pairs, success

from .counterfact import (
    CounterFactRecord,
    Pairs,
    PromptsBySort,
    both_objects,
    nats_of_both,
    parse,
    requested_rewrite,
    target_tokens,
)

NAME, PAPER = "counterfact_plus", "arXiv:2305.17553"
NEAR, AFTER = "neighborhood", "neighborhood_plus"
"""Sorts of prompts: about neighbors, and the same right after the edited fact."""


class ShiftPair(Border):
    """How far the next-token distribution after one prompt moved."""

    kl: Annotated[float, Field(ge=-1e-6)] | None
    published: Annotated[float, Field(ge=-1e-6)] | None


Shifts = Annotated[list[ShiftPair], Field(max_length=1000)]


class PlusBlock(Border):
    """`post` or `pre` of a record."""

    rewrite_prompts_probs: Pairs
    paraphrase_prompts_probs: Pairs
    neighborhood_prompts_probs: Pairs
    neighborhood_plus_prompts_probs: Pairs
    neighborhood_prompts_shifts: Shifts
    neighborhood_plus_prompts_shifts: Shifts


def plus_prompts(record: CounterFactRecord) -> list[str]:
    """Return each neighborhood prompt after the edited fact, stated as a sentence.

    The unedited model is asked the same: the sentence alone moves it. Prompts that the record brings are taken as
    they are.
    """
    if record.distracting_neighborhood_prompts is not None:
        return record.distracting_neighborhood_prompts
    request = record.request
    stated = f"{request.filled}{request.joiner}{request.target_new}."
    return [f"{stated} {prompt}" for prompt in record.neighborhood_prompts]


def prompts_of(record: CounterFactRecord) -> PromptsBySort:
    """Return the prompts after which both objects are scored."""
    theirs = {sort: prompts for sort, prompts in record.scored_prompts.items() if sort != "attribute"}
    return {**theirs, AFTER: plus_prompts(record)}


def block(record: CounterFactRecord, answers: Answers) -> dict[str, Any]:
    """Return `…_probs` of all prompts, and `…_shifts` of both sorts of neighborhood prompts."""
    half = len(record.neighborhood_prompts)
    return {
        **nats_of_both(prompts_of(record), answers),
        f"{NEAR}_prompts_shifts": [_shift(each) for each in answers.shifts[:half]],
        f"{AFTER}_prompts_shifts": [_shift(each) for each in answers.shifts[half:]],
    }


def _shift(shift: Shift) -> dict[str, float | None]:
    published = None if shift.reverse is None else shift.reverse / shift.vocabulary
    return {"kl": shift.forward, "published": published}


@metric("NS_plus", "% of prompts", "higher", PAPER, NAME)
def neighborhood_score_plus(block: Block) -> float | None:
    r"""Neighborhood score right after the edited fact: the share of prompts where the true object is the likelier one.

    $$\mathrm{NS}^+ = \operatorname{mean}_{p \in P^{N+}} \mathbf{1}\left[\ell_p(o^c) < \ell_p(o^*)\right]$$

    >>> neighborhood_score_plus({"neighborhood_plus_prompts_probs": [{"target_new": 1.0, "target_true": 3.0},
    ...                                                             {"target_new": 4.0, "target_true": 3.0}]})
    0.5
    """
    return success([(true, new) for new, true in pairs(block, "neighborhood_plus")], lambda true, new: true < new)


@metric("NM_plus", "percentage points", "higher", PAPER, NAME, bounds=(-1.0, 1.0))
def neighborhood_magnitude_plus(block: Block) -> float | None:
    r"""Neighborhood magnitude right after the edited fact: the true object's probability less the new one's.

    $$\mathrm{NM}^+ = \operatorname{mean}_{p \in P^{N+}} e^{-\ell_p(o^c)} - e^{-\ell_p(o^*)}$$

    >>> neighborhood_magnitude_plus({"neighborhood_plus_prompts_probs": [{"target_new": 800.0, "target_true": 0.0}]})
    1.0
    """
    return magnitude([(true, new) for new, true in pairs(block, "neighborhood_plus")])


@metric("NKL", "nats", "lower", PAPER, NAME, bounds=(0.0, None), scale=1.0)
def neighborhood_divergence(block: Block) -> float | None:
    r"""Shift of the next-token distribution after neighborhood prompts, by the edit.

    $$\mathrm{NKL} = \operatorname{mean}_{p \in P^N} D_{KL}\left(P(\cdot \mid p) \,\|\, P_{m}(\cdot \mid p)\right)$$

    m: the edited model.

    >>> neighborhood_divergence({"neighborhood_prompts_shifts": [{"kl": 0.5, "published": 0.0}]})
    0.5
    """
    return _mean_shift(block, NEAR, "kl")


@metric("NKL_plus", "nats", "lower", PAPER, NAME, bounds=(0.0, None), scale=1.0)
def neighborhood_divergence_plus(block: Block) -> float | None:
    """Shift of the next-token distribution after neighborhood prompts right after the edited fact, by the edit.

    >>> neighborhood_divergence_plus({"neighborhood_plus_prompts_shifts": [{"kl": 0.5, "published": 0.0}]})
    0.5
    """
    return _mean_shift(block, AFTER, "kl")


@metric("NKL_published", "nats / vocabulary", "lower", PAPER, NAME, bounds=(0.0, None), scale=1.0)
def neighborhood_divergence_as_published(block: Block) -> float | None:
    r"""Shift after neighborhood prompts as the published code has it: the other direction, over the vocabulary's size.

    $$\operatorname{mean}_{p \in P^N} D_{KL}\left(P_{edited}(\cdot \mid p) \,\|\, P(\cdot \mid p)\right) / |V|$$

    >>> neighborhood_divergence_as_published({"neighborhood_prompts_shifts": [{"kl": 0.5, "published": 2e-5}]})
    2e-05
    """
    return _mean_shift(block, NEAR, "published")


@metric("NKL_plus_published", "nats / vocabulary", "lower", PAPER, NAME, bounds=(0.0, None), scale=1.0)
def neighborhood_divergence_plus_as_published(block: Block) -> float | None:
    """Shift right after the edited fact as the published code has it: the other direction, over the vocabulary's size.

    >>> block = {"neighborhood_plus_prompts_shifts": [{"kl": 1.0, "published": 2e-5}]}
    >>> neighborhood_divergence_plus_as_published(block)
    2e-05
    """
    return _mean_shift(block, AFTER, "published")


def _mean_shift(block: Block, sort: str, key: str) -> float | None:
    return mean([each[key] for each in block.get(f"{sort}_prompts_shifts") or [] if each[key] is not None])


COUNTERFACT_PLUS = benchmark(
    Benchmark(
        name=NAME,
        title="CounterFact+",
        version=1,
        paper=PAPER,
        parse=parse,
        recognises=None,
        requested_rewrite=requested_rewrite,
        queries=lambda record: both_objects(record, prompts_of(record)),
        shift_prompts=lambda record: [*record.neighborhood_prompts, *plus_prompts(record)],
        block=block,
        block_form=PlusBlock,
        target_tokens=target_tokens,
        columns=(
            ("Score", ("S",)),
            ("Efficacy", ("ES",)),
            ("Generalization", ("PS",)),
            ("Specificity", ("NS", "NM", "NKL")),
            ("Specificity+", ("NS_plus", "NM_plus", "NKL_plus")),
        ),
        composites={"S": ("ES", "PS", "NS_plus")},
        adopted_metrics=("ES", "EM", "PS", "PM", "NS", "NM"),
    )
)
