"""Units of work: fixed ranges of records, what comes out of them, their files, and how often one may fail."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import json_line, read_json, write_atomic
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.chunks import Outcome
from counterfact.lm.planning.batch_plan import Split

ATTEMPTS = 3
"""How often a unit is begun before its records are recorded as failed."""


@dataclass(frozen=True, order=True)
class Unit:
    """The records `start` to `stop` (exclusive) of a data set: one chunk of the plan."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """The stem of its file; names sort as units do."""
        return f"{self.start:08d}"

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Computed:
    """A unit that is finished."""

    unit: Unit
    outcomes: list[Outcome]
    splits: Sequence[Split] = ()
    """Batches of it that had to be halved."""
    peak_memory: Mapping[str, int | None] = field(default_factory=dict)
    """The most that its worker has held so far, in bytes."""


def units_of(records: int, chunk: int) -> list[Unit]:
    """Cut a data set into units: whole chunks, a function of these two numbers and of nothing else.

    >>> [(unit.start, unit.stop) for unit in units_of(7, 3)]
    [(0, 3), (3, 6), (6, 7)]
    """
    return [Unit(start, min(start + chunk, records)) for start in range(0, records, chunk)]


class Attempts:
    """Counts what went wrong with each unit, and gives up on one that fails again and again."""

    def __init__(self, records: Sequence[Record | BadRecord], faults: list[dict[str, str]] | None = None) -> None:
        self._records = records
        self._count: Counter[Unit] = Counter()
        self.faults: list[dict[str, str]] = [] if faults is None else faults
        """Every attempt that failed, for `environment`."""

    def charge(self, unit: Unit, reason: str) -> Computed | None:
        """Note a failed attempt; return outcomes that say so after the last one, `None` where another is due."""
        self._count[unit] += 1
        self.faults.append({"records": f"{unit.start}-{unit.stop - 1}", "reason": reason})
        if self._count[unit] < ATTEMPTS:
            return None
        error = {"stage": "unit", "reason": f"{ATTEMPTS} attempts failed; the last one: {reason}"}
        ids = [record.case_id for record in self._records[unit.start : unit.stop]]
        return Computed(unit, [Outcome({"case_id": i, "error": dict(error)}, {"case_id": i}) for i in ids])


class UnitFiles:
    """A folder of finished units, one file each, written as a whole or not at all."""

    def __init__(self, folder: Path, records: Sequence[Record | BadRecord]) -> None:
        self.folder = folder
        self._ids = [record.case_id for record in records]

    def put(self, computed: Computed) -> None:
        """Write a unit's file."""
        values = [{"line": outcome.line, "times": outcome.times} for outcome in computed.outcomes]
        facts = {"unit": [computed.unit.start, computed.unit.stop], "outcomes": values}
        facts |= {"splits": [list(split) for split in computed.splits], "peak_memory": dict(computed.peak_memory)}
        write_atomic(self._path(computed.unit), json_line(facts))

    def get(self, unit: Unit) -> Computed | None:
        """Read a unit's file; `None` where there is none, or none of just these records."""
        try:
            found = read_json(self._path(unit))
            outcomes = [Outcome(value["line"], value["times"]) for value in found["outcomes"]]
            ids = [outcome.line["case_id"] for outcome in outcomes]
            splits = [Split(*split) for split in found["splits"]]
            peak = dict(found["peak_memory"])
        except (BadInput, KeyError, TypeError, json.JSONDecodeError):
            return None
        whole = found["unit"] == [unit.start, unit.stop] and ids == self._ids[unit.start : unit.stop]
        return Computed(unit, outcomes, splits, peak) if whole else None

    def present(self, units: Sequence[Unit]) -> Iterator[Computed]:
        """Yield those of some units that are there."""
        names = {path.name for path in self.folder.glob("*.json")}
        for unit in units:
            if f"{unit.name}.json" in names and (computed := self.get(unit)) is not None:
                yield computed

    def remove(self, unit: Unit) -> None:
        """Remove a unit's file."""
        self._path(unit).unlink(missing_ok=True)

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit.name}.json"


def summary_of_faults(faults: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return faults as a run file holds them, equal ones counted.

    >>> summary_of_faults([{"records": "0-2", "reason": "died"}, {"records": "0-2", "reason": "died"}])
    [{'records': '0-2', 'reason': 'died', 'n': 2}]
    """
    counted = Counter((fault["records"], fault["reason"]) for fault in faults)
    return [{"records": records, "reason": reason, "n": n} for (records, reason), n in counted.items()]
