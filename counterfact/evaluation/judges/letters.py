"""A local language model as the judge: it is asked for one letter, and only that letter is a yes.

Yang, Zhu, Sun, Tan, Zhang, Ye, Wang, Fan, Ye, Song, Li. The Mirage of Model Editing: Revisiting Evaluation in the Wild.
ACL 2025. https://arxiv.org/abs/2502.11177

As there, the judge sees the question, the right answer and the model's, and chooses between A and B, by the likeliest
tokens; a verdict is positive only if the reply is just "A". The words of the prompt are ours.
"""

from collections.abc import Sequence

from counterfact.contracts.judges import Ask, Exchange, judge
from counterfact.lm.continuation import continuations
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import float32_products
from counterfact.lm.queries import Continuation, OpenQuery

PROMPT = """\
A question was put to a program. Compare its answer with the right one.

Question: {question}
Right answer: {target}
The program's answer: {answer}

A: the program's answer names the right answer.
B: it does not.
Reply with the letter A or B alone.
Letter:"""
NEW_TOKENS, STOPS = 8, "\n"
"""Most tokens of a reply, and what ends it."""


@judge("letters", prompt=PROMPT, needs_model=True)
def prepare(lm: LM | None) -> Ask:
    """Return what asks a model; a model with a chat template is asked in a turn of a chat."""
    assert lm is not None  # `prepare_judge` sees to it

    def ask(exchanges: Sequence[Exchange]) -> list[bool | None]:
        queries = [OpenQuery(_prompt(lm, each), NEW_TOKENS, STOPS) for each in exchanges]
        with float32_products(lm.precision):
            replies = continuations(lm, queries, [-1] * len(queries), [])
        return [is_yes(reply.text, reply.end) if isinstance(reply, Continuation) else None for reply in replies]

    return ask


def is_yes(reply: str | None, end: str = "") -> bool | None:
    r"""Return whether a reply is the letter A and nothing else, but for blanks and the mark of its end.

    >>> is_yes(" A\n"), is_yes("A<|end|>", "<|end|>"), is_yes("A."), is_yes("B"), is_yes(None)
    (True, True, False, False, None)
    """
    return None if reply is None else reply.removesuffix(end).strip() == "A"


def _prompt(lm: LM, exchange: Exchange) -> str:
    text = PROMPT.format(**exchange._asdict())
    return text if lm.tokenizer.chat_template is None else lm.encoding.in_chat(text)
