"""CounterFact with a canary: whether a single edit ruins the model, beside CounterFact's own scores.

Yang, Sun, Ma, Liu, Yin, Cheng. The Butterfly Effect of Model Editing: Few Edits Can Trigger Large Language Models
Collapse. Findings of ACL 2024. https://arxiv.org/abs/2402.09656, which found that one edit may do so, and that the
perplexity of plain text tells.

After every edit the model reads two sentences of our own articles, the same ones for all records, and is compared with
the unedited model at every token. Another sample is another version of the benchmark.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import Answers, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Border
from counterfact.evaluation.plain_texts import SAMPLE, is_ruined, mean_divergence, mean_rise, text_drift

from .counterfact import COUNTERFACT, CounterFactBlock, CounterFactRecord

NAME, PAPER = "canary", "arXiv:2402.09656"
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
    return {**COUNTERFACT.block(record, answers), "canary_prompts_drifts": [*map(text_drift, answers.drifts)]}


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
    return float(is_ruined(drifts)) if drifts else None


@metric("canary_rise", "nats / token", "lower", PAPER, NAME, bounds=(None, None), scale=1.0)
def canary_rise(block: Block) -> float | None:
    r"""Rise of the log-perplexity on the sample: nats per token of the edited model less those of the unedited one.

    0.1 is a perplexity 1.1 times as high, ln 10 = 2.3 is a ruined model. Texts without a number are left out.

    >>> canary_rise({"canary_prompts_drifts": [{"nll": 3.5, "unedited_nll": 3.0, "kl": 0.1}]})
    0.5
    """
    return mean_rise(block.get("canary_prompts_drifts") or [])


@metric("canary_kl", "nats", "lower", PAPER, NAME, bounds=(-1e-6, None), scale=1.0)
def canary_divergence(block: Block) -> float | None:
    r"""Shift of the next-token distributions on the sample, by the edit: mean over all tokens of all texts.

    $$\operatorname{mean}_t D_{KL}\left(P(\cdot \mid x_{<t}) \,\|\, P_{edited}(\cdot \mid x_{<t})\right)$$

    >>> canary_divergence({"canary_prompts_drifts": [{"nll": 3.5, "unedited_nll": 3.0, "kl": 0.25}]})
    0.25
    """
    return mean_divergence(block.get("canary_prompts_drifts") or [])


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
