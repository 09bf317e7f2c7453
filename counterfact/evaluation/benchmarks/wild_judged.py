"""Free generation with a judge beside exact match: whether what an edited model says by itself means the new object.

Yang, Zhu, Sun, Tan, Zhang, Ye, Wang, Fan, Ye, Song, Li. The Mirage of Model Editing: Revisiting Evaluation in the Wild.
ACL 2025. https://arxiv.org/abs/2502.11177

Questions and texts are those of `wild`. A judge's name, version, prompt and model are part of the protocol: runs with
different judges never share a table or a rank, and verdicts never stand in for another number.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import benchmark
from counterfact.contracts.judges import Exchange
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Record
from counterfact.statistics.values import mean

from ._questions import questions_of
from .wild import PAPER, WILD, WildBlock

NAME = "wild_judged"


class JudgedBlock(WildBlock):
    """`post` or `pre` of a record, with the verdicts on what was said."""

    verdicts: Annotated[list[bool | None], Field(max_length=1000)]
    """After the edited prompt, then after each paraphrase; `None` where the judge has none."""


def exchanges(record: Record, block: Mapping[str, Any]) -> list[Exchange]:
    """Return what was said after the edited prompt and after its paraphrases, each with its question."""
    request = record.request
    prompts = (request.filled, *questions_of(record).paraphrases)
    texts = [*block["rewrite_prompts_said"], *block["paraphrase_prompts_said"]]
    return [
        Exchange(prompt, (said["text"] or "").strip(), request.target_new, request.target_true)
        for prompt, said in zip(prompts, texts, strict=True)
    ]


@metric("judged", "% of records", "higher", PAPER, NAME, interval="wilson")
def judged(block: Block) -> float | None:
    """Reliability by a judge: whether the judge takes what the model says after the edited prompt for the new object.

    >>> judged({"verdicts": [True, False, False]})
    1.0
    """
    return _share((block.get("verdicts") or [])[:1])


@metric("judged_para", "% of prompts", "higher", PAPER, NAME)
def judged_paraphrase(block: Block) -> float | None:
    """Generalization by a judge: the share of paraphrases after which the judge takes what is said for the new object.

    >>> judged_paraphrase({"verdicts": [True, False, None]})
    0.0
    """
    return _share((block.get("verdicts") or [])[1:])


def _share(verdicts: list[bool | None]) -> float | None:
    return mean([float(verdict) for verdict in verdicts if verdict is not None])


benchmark(
    replace(
        WILD,
        name=NAME,
        title="Free generation, judged",
        exchanges=exchanges,
        block_form=JudgedBlock,
        columns=(
            ("Reliability", ("exact", "contains", "judged")),
            ("Generalization", ("exact_para", "contains_para", "judged_para")),
            ("Locality", ("unchanged",)),
        ),
        composites={"S": ("judged", "judged_para", "unchanged")},
        adopted_metrics=("exact", "exact_para", "contains", "contains_para", "unchanged"),
    )
)
