"""The order of a data set's records, and the part of them whose edits can all be made at once.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023.
https://arxiv.org/abs/2210.07229, whose MultiCounterFact is such a part of CounterFact.
"""

from collections.abc import Iterable

from counterfact.core.seeds import derive_seed

from .candidates import Draft, Dropped


def in_order(drafts: Iterable[Draft], seed: int) -> list[Draft]:
    """Put drafts in a seeded order, so that any prefix is a random sample."""

    def place(draft: Draft) -> tuple[int, str]:
        return derive_seed(seed, "order", draft.fact.relation, draft.fact.uuid), draft.fact.uuid

    return sorted(drafts, key=place)


def without_conflicts(drafts: Iterable[Draft]) -> tuple[list[Draft], list[Dropped]]:
    """Leave out every draft that teaches another answer to a prompt than one before it.

    One relation has a subject once, but two relations may share a template ("{} was created in" asks for the place
    where a band was formed and for its country), and then their records contradict each other.

    Args:
        drafts: in the order in which they may stay.

    Returns:
        those that stay, and those that were left out.
    """
    answers: dict[str, str] = {}
    left: list[Draft] = []
    dropped: list[Dropped] = []
    for draft in drafts:
        if any(answers.get(prompt, draft.new.label) != draft.new.label for prompt in draft.taught):
            dropped.append(Dropped(draft.fact, "contradicts another record"))
            continue
        answers.update(dict.fromkeys(draft.taught, draft.new.label))
        left.append(draft)
    return left, dropped
