"""CounterFact records of a data set from anywhere: a folder, a file, the Hub."""

from typing import NamedTuple

from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord


class CounterFactData(NamedTuple):
    """Records of one CounterFact data set."""

    label: str
    """`name@version`."""
    records: list[CounterFactRecord]
    bad: list[BadRecord]
    """Records that cannot be used, each with the reason."""


def load_counterfact(source: str, limit: int | None = None) -> CounterFactData:
    """Read a CounterFact data set.

    Args:
        source: as `contracts.datasets.load_dataset` takes it.
        limit: number of records, from the first; None for all.

    Raises:
        BadInput: there is nothing to read, or it holds no CounterFact records.
    """
    data = load_dataset(source, limit)
    whole = [_with_true_object(record) for record in data.records]
    records = [record for record in whole if isinstance(record, CounterFactRecord)]
    if not records:
        raise BadInput(f"expected CounterFact records with a true object, got {data.described}")
    return CounterFactData(data.label, records, [one for one in whole if isinstance(one, BadRecord)])


def _with_true_object(record: Record | BadRecord) -> Record | BadRecord:
    if isinstance(record, CounterFactRecord) and record.requested_rewrite.target_true is None:
        return BadRecord(record.case_id, "it has no true object")
    return record
