"""CounterFact with a canary: whether a single edit ruins the model, beside CounterFact's own scores.

Yang, Sun, Ma, Liu, Yin, Cheng. The Butterfly Effect of Model Editing: Few Edits Can Trigger Large Language Models
Collapse. Findings of ACL 2024. https://arxiv.org/abs/2402.09656, which found that one edit may do so, and that the
perplexity of plain text tells.

After every edit the model reads two sentences of our own articles, the same ones for all records, and is compared with
the unedited model at every token: few, so that watching costs little beside the edit.
"""

import math
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import Answers, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Border
from counterfact.statistics.values import mean

from .counterfact import COUNTERFACT, CounterFactBlock, CounterFactRecord

NAME, PAPER = "canary", "arXiv:2402.09656"
SAMPLE = (
    "Scotland is part of United Kingdom and shares in the history of that country.",
    "The pupils would learn why Rheinpark was thought worthy of the name and what Rhine meant to those who gave it.",
)
"""Sentences of the embedded articles. Another sample is another version of the benchmark."""
RUIN = 10.0
"""How many times the unedited model's perplexity a ruined model's is, at least."""

Nats = Annotated[float, Field(ge=-1e-6)]


class CanaryText(Border):
    """What the edited model makes of one text, beside the unedited one."""

    nll: Nats | None
    unedited_nll: Nats | None
    kl: Nats | None


class CanaryBlock(CounterFactBlock):
    """`post` or `pre` of a record."""

    canary_prompts_drifts: Annotated[list[CanaryText], Field(max_length=100)]


def block(record: CounterFactRecord, answers: Answers) -> dict[str, Any]:
    """Return what CounterFact keeps, and `canary_prompts_drifts`."""
    drifts = [{"nll": each.nll, "unedited_nll": each.unedited_nll, "kl": each.kl} for each in answers.drifts]
    return {**COUNTERFACT.block(record, answers), "canary_prompts_drifts": drifts}


@metric("ruined", "% of edits", "lower", PAPER, NAME, interval="wilson")
def ruined(block: Block) -> float | None:
    r"""Whether an edit ruins the model: its perplexity on the sample is more than ten times the unedited model's.

    $$\bar\ell_{edited} - \bar\ell > \ln 10$$

    $\bar\ell$: mean over the texts of the nats per token. A model that gives no number is ruined. Ten times is this
    project's bound; perplexities of models differ too much for one that is not relative.

    >>> ruined({"canary_prompts_drifts": [{"nll": 6.0, "unedited_nll": 3.0, "kl": 2.0}]})
    1.0
    >>> ruined({"canary_prompts_drifts": [{"nll": 3.1, "unedited_nll": 3.0, "kl": 0.1}]})
    0.0
    """
    drifts = block.get("canary_prompts_drifts") or []
    rises = [_rise(each["nll"], each["unedited_nll"]) for each in drifts]
    risen = mean([rise for rise in rises if rise is not None])
    return None if not drifts else float(None in rises or risen is None or risen > math.log(RUIN))


@metric("canary_rise", "nats / token", "lower", PAPER, NAME, bounds=(None, None), scale=1.0)
def canary_rise(block: Block) -> float | None:
    r"""Rise of the log-perplexity on the sample: nats per token of the edited model less those of the unedited one.

    0.1 is a perplexity 1.1 times as high, ln 10 = 2.3 is a ruined model. Texts without a number are left out.

    >>> canary_rise({"canary_prompts_drifts": [{"nll": 3.5, "unedited_nll": 3.0, "kl": 0.1}]})
    0.5
    """
    rises = [_rise(each["nll"], each["unedited_nll"]) for each in block.get("canary_prompts_drifts") or []]
    return mean([rise for rise in rises if rise is not None])


@metric("canary_kl", "nats", "lower", PAPER, NAME, bounds=(-1e-6, None), scale=1.0)
def canary_divergence(block: Block) -> float | None:
    r"""Shift of the next-token distributions on the sample, by the edit: mean over all tokens of all texts.

    $$\operatorname{mean}_t D_{KL}\left(P(\cdot \mid x_{<t}) \,\|\, P_{edited}(\cdot \mid x_{<t})\right)$$

    >>> canary_divergence({"canary_prompts_drifts": [{"nll": 3.5, "unedited_nll": 3.0, "kl": 0.25}]})
    0.25
    """
    return mean([each["kl"] for each in block.get("canary_prompts_drifts") or [] if each["kl"] is not None])


def _rise(nll: float | None, unedited: float | None) -> float | None:
    return None if nll is None or unedited is None else nll - unedited


CANARY = benchmark(
    replace(
        COUNTERFACT,
        name=NAME,
        title="CounterFact with a canary",
        version=1,
        paper=PAPER,
        recognises=None,
        block=block,
        block_form=CanaryBlock,
        watched=SAMPLE,
        columns=(
            ("Score", ("S",)),
            ("Efficacy", ("ES",)),
            ("Generalization", ("PS",)),
            ("Specificity", ("NS",)),
            ("Canary", ("ruined", "canary_rise", "canary_kl")),
        ),
        composites={"S": ("ES", "PS", "NS")},
        adopted_metrics=("ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS"),
        released={},
    )
)
