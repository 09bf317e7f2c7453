"""A run of traces on disk: what it is, one line and one file of arrays a fact; a stopped run goes on.

`run.json` says what the run is; `facts.jsonl` holds one line for each fact that is done, good or bad; `arrays/<id>.npz`
holds its numbers. A fact's arrays are written before its line, so a line that is there is whole.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterfact.core.errors import BadInput
from counterfact.core.files import JsonLog, differences, hash_json, one_writer, read_json, write_atomic, write_json
from counterfact.core.provenance import DISTRIBUTION, version_of
from counterfact.core.runs import RUN, check_kind, find_run_folders
from counterfact.lm.model.language_model import LM
from counterfact.tracing.facts import BadFact, Fact

SCHEMA = 1
FACTS, ARRAYS = "facts.jsonl", "arrays"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Result:
    """What is kept of one fact."""

    known_id: int
    line: dict[str, Any]
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class Stored:
    """One fact of a run, read again."""

    line: dict[str, Any]
    arrays: Arrays

    @property
    def known_id(self) -> int:
        """Number of the fact in the file of facts."""
        return int(self.line["known_id"])


@dataclass(frozen=True, eq=False)
class TraceRun:
    """A run on disk."""

    folder: Path
    data: dict[str, Any]
    lines: tuple[dict[str, Any], ...]
    """One a fact, in the order of the facts."""

    @property
    def method(self) -> str:
        """`causal`, `severed` or `ig`."""
        return str(self.data["method"])

    @property
    def first_layer(self) -> int:
        """The layer of the first column of its states; -1 is the embedding."""
        return -1 if self.data["settings"].get("embedding") else 0

    @property
    def good(self) -> list[dict[str, Any]]:
        """The lines of facts that could be traced."""
        return [line for line in self.lines if "error" not in line]

    def read(self, line: Mapping[str, Any]) -> Stored:
        """Read one fact's arrays.

        Raises:
            BadInput: they are missing or damaged.
        """
        path = array_path(self.folder, int(line["known_id"]))
        try:
            with path.open("rb") as opened, np.load(opened) as file:  # which closes a damaged one too
                return Stored(dict(line), {name: file[name] for name in file.files})
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{path} cannot be read ({error}); remove it and run the same trace again") from error

    def facts(self) -> Iterator[Stored]:
        """Read all facts that could be traced, one after the other."""
        return map(self.read, self.good)


def array_path(folder: Path, known_id: int) -> Path:
    """Return where a fact's arrays lie."""
    return folder / ARRAYS / f"{known_id:05d}.npz"


def run_identity(lm: LM, method: str, settings: Mapping[str, Any], facts: Sequence[Fact | BadFact]) -> dict[str, Any]:
    """Return what a run's numbers depend on."""
    texts = [[fact.known_id, fact.subject, fact.attribute, fact.prompt] for fact in facts if isinstance(fact, Fact)]
    return {
        "schema": SCHEMA,
        "method": method,
        "model": {**lm.identity, "layers": lm.n_layers, "width": lm.width},
        "settings": dict(settings),
        "facts": {"hash": hash_json(texts), "asked": len(facts), "known_by": "whole attribute"},
    }


def run_folder(results: Path, identity: Mapping[str, Any]) -> Path:
    """Return `<model>@<revision>/trace-<method>-<hash>` below the folder of results."""
    model = identity["model"]
    name = f"{str(model['name']).replace('/', '--')}@{str(model['revision'])[:8]}"
    return results / name / f"trace-{identity['method']}-{hash_json(dict(identity))[:8]}"


def keep(
    results: Path,
    identity: Mapping[str, Any],
    facts: Sequence[Fact | BadFact],
    compute: Callable[[Sequence[Fact]], Sequence[Result | BadFact]],
    *,
    chunk: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> TraceRun:
    """Compute all facts that a run does not have yet, and keep them.

    Args:
        results: folder of all results.
        identity: of `run_identity`; it names the run's folder.
        facts: all facts of the run.
        compute: takes a chunk of facts to their results, in order.
        chunk: facts that are computed together, between two writes.
        progress: function called with the number of facts done and their total.

    Raises:
        BadInput: the folder holds something else, or another process writes it.
        OSError: the disk is full; what is finished stays.
    """
    folder = run_folder(results, identity)
    with one_writer(folder, wait=False):
        _begin(folder, identity)
        log = JsonLog(folder / FACTS)
        done = {line["known_id"] for line in log.read()}
        log.append(_error_line(fact) for fact in facts if isinstance(fact, BadFact) and fact.known_id not in done)
        good = [fact for fact in facts if isinstance(fact, Fact)]
        # A chunk is always computed whole: facts share batches, whose shape decides the last bits of their numbers.
        for start in range(0, len(good), chunk):
            part = good[start : start + chunk]
            missing = {fact.known_id for fact in part} - done
            if not missing:
                continue
            if progress:
                progress(len(facts) - len(good) + start, len(facts))
            lines = []
            for fact, result in zip(part, compute(part), strict=True):
                if isinstance(result, Result):
                    write_atomic(array_path(folder, result.known_id), _bytes(result.arrays))
                if fact.known_id in missing:
                    lines.append(result.line if isinstance(result, Result) else _error_line(result))
            log.append(lines)
    if progress:
        progress(len(facts), len(facts))
    return load_run(folder)


def _begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down what a run is, or check that it is resumed with the same; sweep up after a writer that was killed."""
    for half in (folder / ARRAYS).glob(".*.npz.*"):
        half.unlink()
    if not (folder / RUN).exists():
        write_json(folder / RUN, {"kind": "trace", **identity, "version": version_of(DISTRIBUTION)})
        return
    before = read_json(folder / RUN)
    moved = [name for key, value in identity.items() for name in differences(key, before.get(key), value)]
    if moved:
        raise BadInput(f"{folder} holds a run with another {moved[0]}; remove it, or choose another folder of results")


def load_run(folder: Path) -> TraceRun:
    """Read a run, finished or not.

    Raises:
        BadInput: there is none, it is of another kind, or it was written by a newer version.
    """
    data = read_json(folder / RUN)
    check_kind(data, folder, "trace")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise BadInput(f"{folder / RUN}: expected a trace of schema {SCHEMA}, got {found!r}")
    lines = sorted(JsonLog(folder / FACTS).read(), key=lambda line: int(line["known_id"]))
    return TraceRun(folder, data, tuple(lines))


def find_runs(folders: Sequence[Path]) -> list[TraceRun]:
    """Return all runs of traces at or below some folders.

    Raises:
        BadInput: there is none.
    """
    return [load_run(folder) for folder in find_run_folders(folders, "trace")]


def _error_line(fact: BadFact) -> dict[str, Any]:
    return {"known_id": fact.known_id, "error": fact.reason}


def _bytes(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
