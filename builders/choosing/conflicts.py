"""Records that ask for two things at once: of each such group the first is kept, so that all edits can be made at once.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023.
https://arxiv.org/abs/2210.07229, which edits such a part of CounterFact. How the published file was made is not known:
whole subjects are missing from it, which keeping one of each group does not do. The rule here is this project's own.
"""

import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")
Conflict = Literal["subject and relation of another record", "contradicts another record"]


class Claim(NamedTuple):
    """What a record asks for."""

    subject: str
    relation: str
    """Its id; where there is none, the prompt that stands for it."""
    prompts: Collection[str]
    """After which the edited model is to say the answer."""
    answer: str


def without_conflicts(items: Iterable[T], claim: Callable[[T], Claim]) -> tuple[list[T], list[tuple[T, Conflict]]]:
    """Leave out every item whose subject and relation an item before it has, or that gives a prompt another answer.

    Subjects are compared without regard to letter case, Unicode form and spaces. Two relations may share a template
    ("{} was created in" may ask for a place or a country), and then two answers to one prompt contradict each other.

    Args:
        items: in order of preference, such as that of case ids.
        claim: what an item asks for.

    Returns:
        The items that are kept, and the others, each with its conflict.

    >>> facts = [Claim("Oslo", "P17", ["a"], "x"), Claim("OSLO ", "P17", ["b"], "x"), Claim("Ii", "P17", ["a"], "y")]
    >>> kept, left_out = without_conflicts(facts, lambda fact: fact)
    >>> [fact.subject for fact in kept], [conflict for _, conflict in left_out]
    (['Oslo'], ['subject and relation of another record', 'contradicts another record'])
    """
    taken: set[tuple[str, str]] = set()
    answers: dict[str, str] = {}
    kept: list[T] = []
    left_out: list[tuple[T, Conflict]] = []
    for item in items:
        said = claim(item)
        key = (normalised(said.subject), said.relation)
        if key in taken:
            left_out.append((item, "subject and relation of another record"))
        elif any(answers.get(prompt, said.answer) != said.answer for prompt in said.prompts):
            left_out.append((item, "contradicts another record"))
        else:
            taken.add(key)
            answers.update(dict.fromkeys(said.prompts, said.answer))
            kept.append(item)
    return kept, left_out


def normalised(subject: str) -> str:
    """Return a subject as it is compared: in Unicode form NFKC, case folded, with single spaces.

    >>> normalised(" Lake  Ｅxample ")
    'lake example'
    """
    return " ".join(unicodedata.normalize("NFKC", subject).casefold().split())
