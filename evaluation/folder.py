"""A folder of results that grows chunk by chunk and can be gone on with after a kill."""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.files import JsonLog, read_json, write_json, write_jsonl
from core.records import BadRecord, Record
from evaluation.chunks import Outcome
from evaluation.identity import check_unmoved

UNFINISHED = "unfinished.json"
"""Holds what a run was begun with, until it is finished."""
TIMINGS = "timings.jsonl"


def begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down what a run is begun with, or check that it is gone on with the same.

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
    run: Callable[[Sequence[Record | BadRecord]], list[Outcome]],
    progress: Callable[[int, int], None],
) -> None:
    """Take records through `run`, chunk by chunk, and append what comes out; chunks that are there are passed over.

    Chunks begin at multiples of `chunk`, whatever was interrupted where, so that a record is always computed together
    with the same others: a chunk of which a part is there is computed again, whole.

    Args:
        folder: where the files are.
        name: of the file of results, `cases.jsonl` or `pre.jsonl`.
        records: all records of the data set, in order.
        chunk: records at a time.
        run: computes one chunk.
        progress: is told how many records are done, and of how many.

    Raises:
        BadInput: the lines in the file are not of these records.
        OSError: the disk is full; what was finished stays.
    """
    log, times = JsonLog(folder / name), JsonLog(folder / TIMINGS)
    done = _whole_chunks(log, times, records, chunk)
    progress(done, len(records))
    for start in range(done, len(records), chunk):
        part = records[start : start + chunk]
        outcomes = run(part)
        with disk_full_is_said(folder, start, len(records)):
            # Times first: what `cases.jsonl` holds is finished in every respect.
            times.append(outcome.times for outcome in outcomes)
            log.append(outcome.line for outcome in outcomes)
        progress(start + len(part), len(records))


@contextmanager
def disk_full_is_said(folder: Path, done: int, total: int) -> Iterator[None]:
    """Raise a full disk with what it means."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        message = f"the disk is full; {done} of {total} records are finished and kept: make room and run it again"
        raise OSError(error.errno, message, str(folder)) from error


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
