"""Free generation: what an edited model says by itself, beside the same questions under teacher forcing.

Yang, Zhu, Sun, Tan, Zhang, Ye, Wang, Fan, Ye, Song, Li. The Mirage of Model Editing: Revisiting Evaluation in the Wild.
ACL 2025. https://arxiv.org/abs/2502.11177

Its questions are made from any records that have paraphrases and neighbors, so that no data set of its own is needed.
Texts are greedy, at most 50 tokens, and end with the token that holds the first full stop or line break, or with the
end of the text; what ended them is cut off. So an answer with a full stop inside ("St. Louis") is never said whole.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.benchmarks import Answers, Benchmark, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Border, Record
from counterfact.lm.queries import OpenQuery, Query
from counterfact.statistics.values import mean

from ._answers import Correct, SaidTexts, check_answer, exact_share, holding_share, open_queries, said, without_end
from ._questions import parse_any, questions_of, rewrite_of
from .counterfact import target_tokens

NAME, PAPER = "wild", "arXiv:2502.11177"


class Kept(Border):
    """What the model said after a prompt about a neighbor."""

    text: Annotated[str, Field(max_length=10_000)] | None
    unchanged: bool
    """Whether the unedited model says the same tokens."""


class WildBlock(Border):
    """`post` or `pre` of a record: by sort of prompt, the answer's tokens under teacher forcing, and what was said."""

    rewrite_prompts_correct: Correct
    paraphrase_prompts_correct: Correct
    neighborhood_prompts_correct: Correct
    rewrite_prompts_said: SaidTexts
    paraphrase_prompts_said: SaidTexts
    neighborhood_prompts_said: Annotated[list[Kept], Field(max_length=1000)]


def parse(value: Mapping[str, Any], position: int) -> Record:
    """Read a record of any benchmark whose new object has words to be compared."""
    record = parse_any(value, position)
    check_answer(record.request.target_new)
    return record


def queries(record: Record) -> list[Query]:
    """Return each prompt with its answer, for teacher forcing."""
    request, asked = record.request, questions_of(record)
    new = [(prompt, request.target_new) for prompt in (request.filled, *asked.paraphrases)]
    return [Query(prompt, (answer,), request.joiner) for prompt, answer in [*new, *asked.neighborhood]]


def spoken(record: Record) -> list[OpenQuery]:
    """Return the same prompts to be answered freely, and those about neighbors to the unedited model too."""
    asked = questions_of(record)
    around = [neighbor.prompt for neighbor in asked.neighborhood]
    about = (record.request.filled, *asked.paraphrases)
    return open_queries((*about, *around)) + open_queries(around, unedited=True)


def block(record: Record, answers: Answers) -> dict[str, Any]:
    """Return `{sort}_prompts_correct` and `{sort}_prompts_said`."""
    asked = questions_of(record)
    near = 1 + len(asked.paraphrases)
    far = near + len(asked.neighborhood)
    found = {}
    for sort, part in (("rewrite", slice(1)), ("paraphrase", slice(1, near)), ("neighborhood", slice(near, far))):
        found[f"{sort}_prompts_correct"] = [right for (score,) in answers.scores[part] for right in score.correct]
    texts = [said(each, asked.answers) for each in answers.continuations[:near]]
    kept = [
        {
            "text": None if edited.text is None else without_end(edited.text, edited.end),
            "unchanged": edited.text is not None and edited.ids == unedited.ids,
        }
        for edited, unedited in zip(answers.continuations[near:far], answers.continuations[far:], strict=True)
    ]
    said_texts = {"rewrite": texts[:1], "paraphrase": texts[1:], "neighborhood": kept}
    return found | {f"{sort}_prompts_said": each for sort, each in said_texts.items()}


@metric("exact", "% of records", "higher", PAPER, NAME, interval="wilson")
def exact(block: Block) -> float | None:
    """Reliability by exact match: whether what the model says after the edited prompt is the new object and no more.

    Both are put in lower case, ASCII punctuation and the words a, an and the are removed, and they must be equal.
    That is the published rule without a judge. Other names of the object do not count.

    >>> exact({"rewrite_prompts_said": [{"text": " the Oslo", "answers": ["Oslo", "Christiania"]}]})
    1.0
    """
    return exact_share(block, "rewrite")


@metric("exact_para", "% of prompts", "higher", PAPER, NAME)
def exact_paraphrase(block: Block) -> float | None:
    """Generalization by exact match: the share of paraphrases after which the model says the new object and no more.

    >>> exact_paraphrase({"paraphrase_prompts_said": [{"text": "Oslo", "answers": ["Oslo"]},
    ...                                               {"text": "Oslo, Norway", "answers": ["Oslo"]}]})
    0.5
    """
    return exact_share(block, "paraphrase")


@metric("contains", "% of records", "higher", "this project", NAME, interval="wilson")
def contains(block: Block) -> float | None:
    """Reliability by containment: whether what the model says after the edited prompt holds the new object's name.

    Normalised as for exact match, and as whole words; another name of the object that the record knows counts too.

    >>> contains({"rewrite_prompts_said": [{"text": " in Christiania, now", "answers": ["Oslo", "Christiania"]}]})
    1.0
    """
    return holding_share(block, "rewrite")


@metric("contains_para", "% of prompts", "higher", "this project", NAME)
def contains_paraphrase(block: Block) -> float | None:
    """Generalization by containment: the share of paraphrases after which what the model says holds the new object.

    >>> contains_paraphrase({"paraphrase_prompts_said": [{"text": "Oslo, Norway", "answers": ["Oslo"]},
    ...                                                  {"text": None, "answers": ["Oslo"]}]})
    0.5
    """
    return holding_share(block, "paraphrase")


@metric("unchanged", "% of prompts", "higher", PAPER, NAME)
def unchanged(block: Block) -> float | None:
    """Locality: the share of prompts about neighbors after which the model says the same tokens as before the edit.

    >>> unchanged({"neighborhood_prompts_said": [{"text": "Turin", "unchanged": True}]})
    1.0
    """
    return mean([float(each["unchanged"]) for each in block.get("neighborhood_prompts_said") or []])


WILD = benchmark(
    Benchmark(
        name=NAME,
        title="Free generation",
        version=1,
        paper=PAPER,
        parse=parse,
        recognises=None,
        requested_rewrite=rewrite_of,
        queries=queries,
        open_queries=spoken,
        block=block,
        block_form=WildBlock,
        target_tokens=target_tokens,
        columns=(
            ("Reliability", ("efficacy", "exact", "contains")),
            ("Generalization", ("paraphrase", "exact_para", "contains_para")),
            ("Locality", ("unchanged",)),
        ),
        composites={"S": ("exact", "exact_para", "unchanged")},
        adopted_metrics=("efficacy", "paraphrase", "specificity"),
    )
)
