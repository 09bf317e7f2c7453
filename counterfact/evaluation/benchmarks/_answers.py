"""Whether what a model said by itself is, or holds, an answer.

Yang, Zhu, Sun, Tan, Zhang, Ye, Wang, Fan, Ye, Song, Li. The Mirage of Model Editing: Revisiting Evaluation in the Wild.
ACL 2025. https://arxiv.org/abs/2502.11177
"""

import re
import string
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from counterfact.contracts.metrics import Block
from counterfact.core.records import Border
from counterfact.lm.queries import Continuation, OpenQuery
from counterfact.statistics.values import mean

NEW_TOKENS, STOPS = 50, ".\n"
"""Most tokens of a text, and characters that end it."""
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Said(Border):
    """What the model said after one prompt, and what answers it."""

    text: Annotated[str, Field(max_length=10_000)] | None
    answers: Annotated[list[str], Field(min_length=1, max_length=1000)]
    """The answer, then its other names."""


SaidTexts = Annotated[list[Said], Field(max_length=1000)]
Correct = Annotated[list[bool], Field(max_length=10_000)]
"""For each token of an answer under teacher forcing, whether it is the likeliest one."""


def open_queries(prompts: Iterable[str], *, unedited: bool = False) -> list[OpenQuery]:
    """Return queries that let a model answer prompts by itself, in a text that ends at a full stop or a line break."""
    return [OpenQuery(prompt, NEW_TOKENS, STOPS, unedited) for prompt in prompts]


def said(continuation: Continuation, answers: Iterable[str]) -> dict[str, Any]:
    """Return what a block keeps of one text: the text without its end, and the answer with its other names."""
    text = continuation.text
    return {"text": None if text is None else without_end(text, continuation.end), "answers": list(answers)}


def without_end(text: str, end: str = "") -> str:
    r"""Return a text without what ended it: one full stop, one line break and one mark `end`, in this order.

    >>> without_end("Paris."), without_end("Paris.\n"), without_end("Paris<|end|>", "<|end|>")
    ('Paris', 'Paris.', 'Paris')
    """
    for suffix in (".", "\n", end):
        text = text.removesuffix(suffix)
    return text


def normalised(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, without the words a, an and the, and single spaces.

    Punctuation leaves nothing behind, so that a word with a hyphen becomes one word.

    >>> normalised(" the Jean-Luc  U.S.")
    'jeanluc us'
    """
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split())


def is_answer(text: str, answer: str) -> bool:
    """Return whether a text is an answer and nothing else, both normalised.

    >>> is_answer(" The Paris", "Paris"), is_answer("Paris, France", "Paris")
    (True, False)
    """
    return normalised(text) == normalised(answer)


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Return whether a text holds one of the answers as whole words, all normalised; an answer without words never is.

    >>> holds_answer(" in the city of Paris", ["City of Light", "Paris"]), holds_answer("Parisian", ["Paris", "the"])
    (True, False)
    """
    words = f" {normalised(text)} "
    return any(f" {answer} " in words for answer in map(normalised, answers) if answer)


def exact_share(block: Block, sort: str) -> float | None:
    """Return the share of texts after one sort of prompt that are the answer; a missing text is none."""
    return mean([float(is_answer(each["text"] or "", each["answers"][0])) for each in _texts(block, sort)])


def holding_share(block: Block, sort: str) -> float | None:
    """Return the share of texts after one sort of prompt that hold the answer or another name of it."""
    return mean([float(holds_answer(each["text"] or "", each["answers"])) for each in _texts(block, sort)])


def check_answer(answer: str) -> None:
    """Raise `ValueError` for an answer of which nothing is left once it is normalised: an empty text would be it."""
    if not normalised(answer):
        raise ValueError(f"the answer {answer!r} has no words but articles and punctuation: no text can be it")


def _texts(block: Block, sort: str) -> list[Mapping[str, Any]]:
    return block.get(f"{sort}_prompts_said") or []
