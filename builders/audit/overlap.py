"""What two CounterFact data sets share, and why one lacks facts of the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from counterfact.core.files import read_jsonl
from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .loading import load_counterfact
from .statistics import PROMPTS, Things

Triple = tuple[str | None, str, str]
"""Relation, and the labels of subject and true object."""


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


def triple(record: CounterFactRecord) -> Triple:
    """Return the true fact that a record edits."""
    rewrite = record.requested_rewrite
    return rewrite.relation_id, rewrite.subject, rewrite.true_text


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
    missing: Counter[str] | None
    """Reason why the first lacks a fact of the second, to number of facts; None where its folder does not say."""


def compare_datasets(first: str, second: str) -> Comparison:
    """Compare two CounterFact data sets.

    Args:
        first: a data set, as `contracts.datasets.load_dataset` takes it.
        second: another one.

    Raises:
        BadInput: there is no such data set, or it holds no CounterFact records.
    """
    ours, theirs = load_counterfact(first), load_counterfact(second)
    missing = why_missing(Path(first), ours.records, theirs.records)
    return Comparison(ours.label, theirs.label, overlap(ours.records, theirs.records), missing)


def overlap(first: Sequence[CounterFactRecord], second: Sequence[CounterFactRecord]) -> list[Shared]:
    """Count what two data sets share, kind by kind; things are equal when their texts are."""
    rows = []
    for item, things in _ITEMS.items():
        ours = {thing for record in first for thing in things(record)}
        theirs = {thing for record in second for thing in things(record)}
        rows.append(Shared(item, len(ours), len(theirs), len(ours & theirs)))
    return rows


def why_missing(
    build: Path, records: Sequence[CounterFactRecord], other: Sequence[CounterFactRecord]
) -> Counter[str] | None:
    """Count why a build lacks facts that another data set has.

    Args:
        build: the folder of a build, with its `dropped.jsonl`.
        records: the build's records.
        other: those of the other data set.

    Returns:
        reason to number of facts; None where the folder does not say.
    """
    if not (build / "dropped.jsonl").is_file():
        return None
    dropped: dict[Triple, str] = {}
    for line in read_jsonl(build / "dropped.jsonl"):
        dropped.setdefault((line["relation_id"], line["subject"], line["object"]), line["reason"])
    relations = {relation for relation, _, _ in [*dropped, *map(triple, records)]}
    missing = dict.fromkeys(map(triple, other)).keys() - set(map(triple, records))
    return Counter(
        dropped.get(fact, "no such tuple" if fact[0] in relations else "no tuples of the relation") for fact in missing
    )
