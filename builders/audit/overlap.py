"""What two CounterFact data sets share, and what one recovers of the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .loading import load_counterfact
from .recovery import Recovery, recovery_of, triple
from .statistics import PROMPTS, Things


class Shared(NamedTuple):
    """Number of different things of a kind in each data set, and in both."""

    item: str
    first: int
    second: int
    both: int

    @property
    def of_first(self) -> float | None:
        """Share of the first's things that the second has too; None where it has none."""
        return self.both / self.first if self.first else None

    @property
    def of_second(self) -> float | None:
        """Share of the second's things that the first has too; None where it has none."""
        return self.both / self.second if self.second else None


_ITEMS: Mapping[str, Things] = {
    "relations": lambda record: [record.requested_rewrite.relation_id],
    "subjects": lambda record: [record.requested_rewrite.subject],
    "facts (relation, subject, true object)": lambda record: [triple(record)],
    "edits (facts with their new object)": lambda record: [(triple(record), record.requested_rewrite.target_new.text)],
    "templates of rewriting prompts": lambda record: [(triple(record)[0], record.requested_rewrite.prompt)],
    "rewriting prompts": lambda record: [fill(record.requested_rewrite.prompt, record.requested_rewrite.subject)],
    **PROMPTS,
}


class Comparison(NamedTuple):
    """What two data sets share."""

    first: str
    """Label of the first."""
    second: str
    """Label of the second."""
    overlap: list[Shared]
    recovery: Recovery
    """What the first recovers of the second, by relation, and why it lacks the rest."""


def compare_datasets(first: str, second: str) -> Comparison:
    """Compare two CounterFact data sets.

    Args:
        first: a data set, as `contracts.datasets.load_dataset` takes it.
        second: another one.

    Raises:
        BadInput: there is no such data set, or it holds no CounterFact records.
    """
    ours, theirs = load_counterfact(first), load_counterfact(second)
    found = recovery_of(Path(first), ours, theirs)
    return Comparison(ours.label, theirs.label, overlap(ours.records, theirs.records), found)


def overlap(first: Sequence[CounterFactRecord], second: Sequence[CounterFactRecord]) -> list[Shared]:
    """Count what two data sets share, kind by kind; things are equal when their texts are."""
    rows = []
    for item, things in _ITEMS.items():
        ours = {thing for record in first for thing in things(record)}
        theirs = {thing for record in second for thing in things(record)}
        rows.append(Shared(item, len(ours), len(theirs), len(ours & theirs)))
    return rows
