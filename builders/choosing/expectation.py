"""What uniform draws from pools predict: subjects a record and distinct prompts, to hold what was drawn against.

A record draws $k$ of the $nt$ prompts that $n$ subjects and $t$ templates make. A subject is among them with
probability $1 - \\binom{nt-t}{k} / \\binom{nt}{k}$, and a prompt with $k / nt$; so of the prompts that any record may
draw, $\\sum_p (1 - \\prod_r (1 - k / n_r t_r))$ are drawn by one, where $r$ goes through the records that may draw $p$.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .sampling import Draw

PAPER = {"neighborhood": (8.05, 82_650), "attribute": (8.24, None)}
"""Subjects a record, counted in the released data, and distinct prompts, from Table 2 of the paper."""


class Spread(NamedTuple):
    """How far prompts about other subjects are spread."""

    subjects: float | None
    """Mean number of subjects that the prompts of a record are about; None without any."""
    prompts: float
    """Number of distinct prompts of all records."""


def measured(draws: Sequence[Draw]) -> Spread:
    """Return what was drawn; records without any prompt do not count.

    >>> measured([])
    Spread(subjects=None, prompts=0)
    """
    subjects = [len({prompt.id for prompt in draw.prompts}) for draw in draws if draw.prompts]
    distinct = {prompt.prompt for draw in draws for prompt in draw.prompts}
    return Spread(sum(subjects) / len(subjects) if subjects else None, len(distinct))


def expected(draws: Iterable[tuple[str, Draw]]) -> Spread:
    """Return what their pools and templates predict of uniform draws.

    Args:
        draws: relation, and what was drawn from which pool. In one relation, draws of more templates have those of
            fewer, and two relations share no prompt.

    >>> one = Draw((("Q1", "Ann speaks"),), ("Ann", "Bo"), 1)
    >>> expected([("P103", one)] * 2)
    Spread(subjects=1.0, prompts=1.5)
    """
    subjects = []
    missed: defaultdict[tuple[str, str], defaultdict[int, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    for relation, draw in draws:
        among, taken = len(draw.pool) * draw.templates, len(draw.prompts)
        if not taken:
            continue
        never = math.comb(among - draw.templates, taken) / math.comb(among, taken)
        subjects.append(len(draw.pool) * (1 - never))
        for label in draw.pool:
            missed[relation, label][draw.templates] *= 1 - taken / among
    return Spread(sum(subjects) / len(subjects) if subjects else None, sum(map(_drawn, missed.values())))


def _drawn(missed: Mapping[int, float]) -> float:
    """Return how many prompts about one subject are expected.

    Args:
        missed: number of templates to the probability that no record of so many draws one certain prompt of them.
    """
    total, before = 0.0, 0
    for templates in sorted(missed):
        # A template further down the list is one that only draws of as many templates may take.
        total += (templates - before) * (1 - math.prod(missed[more] for more in missed if more >= templates))
        before = templates
    return total
