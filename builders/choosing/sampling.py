"""Random choices that depend on the seed and on what they are made for, never on the order in which they are made."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeVar

import numpy as np

from counterfact.core.prompts import fill
from counterfact.core.seeds import derive_seed

from ..sources.knowledge import LabelledEntity

T = TypeVar("T")

_SPARE_SUBJECTS = 4


class DrawnPrompt(NamedTuple):
    """A prompt about another subject."""

    id: str
    prompt: str


class Draw(NamedTuple):
    """Prompts about other subjects, and what they were drawn from."""

    prompts: tuple[DrawnPrompt, ...]
    pool: tuple[str, ...] = ()
    """Labels of the subjects, where every prompt about them was as likely as any other; else nothing."""
    templates: int = 0
    """Number of templates of such a draw."""


def collides(first: str, second: str) -> bool:
    """Tell whether one label equals or contains the other, letter case apart.

    >>> collides("Malay", "Malayalam"), collides("french", "French"), collides("Paris", "Rome")
    (True, True, False)
    """
    a, b = first.casefold(), second.casefold()
    return a in b or b in a


class WeightedOrder:
    """Stable weighted sampling without replacement.

    Every item has an exponential waiting time of its own, $-\\ln(u_i) / w_i$ with $u_i$ a hash of the seed and the
    item; the items come in order of their times (Efraimidis and Spirakis 2006), so the first is item $i$ with
    probability $w_i / \\sum_j w_j$. Adding weight to one item can only bring that item forward: all other draws
    stay as they were.

    Args:
        weights: item to positive weight.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._items = list(weights)
        self._weights = np.array(list(weights.values()), dtype=np.float64)
        self._hashes = np.array([derive_seed("item", item) for item in self._items], dtype=np.uint64)

    def order(self, seed: int) -> Iterator[str]:
        """Yield the items in the order in which a seed draws them.

        >>> sorted(WeightedOrder({"a": 1, "b": 5}).order(7))
        ['a', 'b']
        """
        mixed = _mix(self._hashes ^ np.uint64(seed))
        uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        times = -np.log(uniform) / self._weights
        for index in np.argsort(times, kind="stable"):
            yield self._items[index]


def _mix(
    words: "np.ndarray[tuple[int, ...], np.dtype[np.uint64]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint64]]":
    # The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the output depends on every bit of the input.
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def shuffled(values: Sequence[T], random: Random) -> Iterator[T]:
    """Yield values in random order; taking the first few of very many costs no more than those few.

    >>> sorted(shuffled("abcd", Random(0)))
    ['a', 'b', 'c', 'd']
    """
    moved: dict[int, int] = {}
    for start in range(len(values)):
        chosen = random.randrange(start, len(values))
        yield values[moved.get(chosen, chosen)]
        moved[chosen] = moved.pop(start, start)


def draw_spread(
    holders: Sequence[LabelledEntity],
    allowed: Callable[[LabelledEntity], bool],
    templates: Sequence[str],
    count: int,
    random: Random,
) -> Draw:
    """Draw `count` distinct prompts from subjects x templates, or as many as there are, spread over the subjects.

    Every subject gives one prompt before any gives a second one; a label that two subjects share is taken once.
    """
    chosen: dict[str, LabelledEntity] = {}
    for holder in shuffled(holders, random) if count else ():
        if holder.label not in chosen and allowed(holder):
            chosen[holder.label] = holder
            if len(chosen) == count:
                break
    orders = [(holder, shuffled(templates, random)) for holder in chosen.values()]
    prompts: dict[str, DrawnPrompt] = {}
    for holder, order in itertools.chain.from_iterable(itertools.repeat(orders, len(templates))):
        if len(prompts) == count:
            break
        prompt = fill(next(order), holder.label)
        prompts.setdefault(prompt, DrawnPrompt(holder.id, prompt))
    return Draw(tuple(prompts.values()))


def draw_uniformly(
    holders: Sequence[LabelledEntity],
    allowed: Callable[[LabelledEntity], bool],
    templates: Sequence[str],
    count: int,
    random: Random,
) -> Draw:
    """Draw `count` distinct prompts from subjects x templates, or as many as there are, each as likely as any other.

    Args:
        holders: subjects with different labels.
        allowed: whether a subject may stand in a prompt.
        templates: different templates.
        count: number of prompts.
        random: draws them.
    """
    pool = [holder for holder in holders if allowed(holder)] if count else []
    prompts: dict[str, DrawnPrompt] = {}
    for place in shuffled(range(len(pool) * len(templates)), random):
        if len(prompts) == count:
            break
        holder, template = pool[place // len(templates)], templates[place % len(templates)]
        prompt = fill(template, holder.label)
        prompts.setdefault(prompt, DrawnPrompt(holder.id, prompt))
    return Draw(tuple(prompts.values()), tuple(holder.label for holder in pool), len(templates))


def sample_subjects(held: Sequence[LabelledEntity], relation: str, object: str, count: int, seed: int) -> list[str]:
    """Draw the subjects whose articles may become reference texts of an object.

    Returns:
        their ids in drawn order, several times as many as texts are wanted, since not all have an article.
    """
    random = Random(derive_seed(seed, "reference texts", relation, object))
    drawn = shuffled(held, random)
    return [holder.id for holder, _ in zip(drawn, range(_SPARE_SUBJECTS * count), strict=False)]
