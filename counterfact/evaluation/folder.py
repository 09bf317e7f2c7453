"""A folder of results that grows unit by unit and can be resumed after a kill.

A unit is a fixed range of records, whoever computes it; one that is finished before those in front of it waits in a
file of its own.
"""

import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import JsonLog, disk_full, json_line, read_json, write_atomic, write_json, write_jsonl
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation.chunks import Outcome
from counterfact.evaluation.identity import check_unmoved
from counterfact.lm.planning.batch_plan import Split

UNFINISHED = "unfinished.json"
"""Holds what a run was begun with, until it is finished."""
TIMINGS = "timings.jsonl"
UNITS = "units"
"""Units that finished before those in front of them."""


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


def begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down what a run is begun with, or check that it is resumed with the same.

    Raises:
        BadInput: the folder was begun with something else.
    """
    path = folder / UNFINISHED
    if path.exists():
        check_unmoved(folder, read_json(path), identity, code=True)
    else:
        write_json(path, identity)


def walk(
    folder: Path,
    name: str,
    records: Sequence[Record | BadRecord],
    chunk: int,
    run: Callable[[Sequence[Unit]], Iterable[Computed]],
    progress: Callable[[int, int], None],
) -> None:
    """Take records through `run`, unit by unit, and append what comes out; units that are there are passed over.

    Units begin at multiples of `chunk`, whatever was interrupted where and whoever computes them, so that a record is
    always computed together with the same others: a unit of which a part is there is computed again, whole.

    Args:
        folder: where the files are.
        name: of the file of results, `cases.jsonl` or `pre.jsonl`.
        records: all records of the data set, in order.
        chunk: records of a unit.
        run: computes units and yields them as they finish, in any order.
        progress: function called with the number of records done and their total.

    Raises:
        BadInput: the lines in the file are not of these records.
        OSError: the disk is full; what was finished stays.
        Failed: units are missing though `run` has ended.
    """
    merge = Merge(folder, name, records, chunk)
    total = len(records)
    with disk_full_is_said(folder, merge.done, total):
        merge.drain()
    progress(merge.finished, total)
    computing = run(merge.missing())
    try:
        for computed in computing:
            with disk_full_is_said(folder, merge.finished, total):
                merge.add(computed)
            progress(merge.finished, total)
    finally:
        if isinstance(computing, Generator):
            computing.close()  # now, so that no worker goes on for a run that stopped
    if merge.done < total:
        raise Failed(f"{total - merge.done} of {total} records of {folder} did not come back; run it again to go on")
    shutil.rmtree(folder / UNITS, ignore_errors=True)


class Merge:
    """Brings units that finish in any order into the order of the records.

    The next unit in order is appended to the files of lines; one that came too early waits in a file of its own.

    Args:
        folder, name, records, chunk: as of `walk`.
    """

    def __init__(self, folder: Path, name: str, records: Sequence[Record | BadRecord], chunk: int) -> None:
        self._log, self._times = JsonLog(folder / name), JsonLog(folder / TIMINGS)
        self._files = UnitFiles(folder / UNITS, records)
        self.done = _whole_chunks(self._log, self._times, records, chunk)
        """Records whose lines are in their place."""
        self._units = [unit for unit in units_of(len(records), chunk) if unit.start >= self.done]
        self._waiting = {computed.unit for computed in self._files.present(self._units)}

    @property
    def finished(self) -> int:
        """Records that are done or wait for those in front of them."""
        return self.done + sum(map(len, self._waiting))

    def missing(self) -> list[Unit]:
        """Return the units that are still to be computed."""
        return [unit for unit in self._units if unit.start >= self.done and unit not in self._waiting]

    def add(self, computed: Computed) -> None:
        """Take in a unit."""
        if computed.unit.start == self.done:
            self._append(computed)
            self.drain()
        else:
            self._files.put(computed)
            self._waiting.add(computed.unit)

    def drain(self) -> None:
        """Append the units whose turn has come."""
        for unit in sorted(self._waiting):
            if unit.start != self.done:
                return
            computed = self._files.get(unit)
            if computed is None:
                raise BadInput(f"{self._files.folder} was changed while the run went on; run it again")
            self._append(computed)
            self._waiting.discard(unit)
            self._files.remove(unit)

    def _append(self, computed: Computed) -> None:
        # Times first: what `cases.jsonl` holds is finished in every respect.
        self._times.append(outcome.times for outcome in computed.outcomes)
        self._log.append(outcome.line for outcome in computed.outcomes)
        self.done = computed.unit.stop


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


@contextmanager
def disk_full_is_said(folder: Path, done: int, total: int) -> Iterator[None]:
    """Raise a full disk with what it means."""
    try:
        yield
    except OSError as error:
        if not disk_full(error):
            raise
        message = f"the disk is full; {done} of {total} records are finished and kept: make room and run it again"
        raise OSError(error.errno, message, str(folder)) from error


def clear(folder: Path) -> None:
    """Remove all that is in a folder of results."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _whole_chunks(log: JsonLog, times: JsonLog, records: Sequence[Record | BadRecord], chunk: int) -> int:
    """Cut both files back to whole chunks, and return how many records are finished."""
    lines = log.read()
    ids = [record.case_id for record in records]
    if [line["case_id"] for line in lines] != ids[: len(lines)]:
        raise BadInput(f"{log.path} does not hold these records in this order; remove it to begin again")
    done = len(lines) if len(lines) == len(ids) else len(lines) // chunk * chunk
    if done < len(lines):
        write_jsonl(log.path, lines[:done])
    kept = set(ids[:done])
    # A time of a chunk that was interrupted is measured again, and of one that was not the first is the right one.
    first = {time["case_id"]: time for time in reversed(times.read()) if time["case_id"] in kept}
    write_jsonl(times.path, [first[case_id] for case_id in ids[:done] if case_id in first])
    return done
