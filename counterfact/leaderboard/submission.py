"""A submission: a folder with `run.json` and one compressed file that holds a line for each record."""

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, json_line, write_atomic, write_json
from counterfact.core.runs import RUN
from counterfact.evaluation.store import Run, migrated
from counterfact.leaderboard.reading import MARKUP, UNSEEN, Refused, parse, read_lines, read_run_file
from counterfact.leaderboard.schema import WITHHELD, check_line, check_run

RECORDS = "records.jsonl.gz"
LOOKALIKES = {"<": "‹", ":": "∶", "&": "＆"}
"""What stands for a letter of markup that a model happened to write."""
PRIVATE = {"dataset_path"}
"""Of the environment: where things lie on the machine of whoever ran it."""

UNCHECKED = {"sequence"}
"""Sections of a run file that do not follow from the lines of a submission, so that no board could check them."""
BESIDE = {"references.json", "README.md", "LICENSE", ".gitattributes", ".gitignore", ".gitkeep"}
"""Files that may lie beside the folders of submissions."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands for a control character."""


@dataclass(frozen=True)
class Submission:
    """A submission that could be read; whether its numbers hold is for `leaderboard.check`."""

    folder: Path
    run: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @property
    def benchmark(self) -> Benchmark[Any]:
        """The benchmark that it was measured by."""
        return BENCHMARKS.get(self.run["protocol"]["name"])

    @cached_property
    def cases(self) -> list[dict[str, Any]]:
        """The lines as a run's `cases.jsonl` has them."""
        return [_side(line, "post", "error") for line in self.lines]

    @cached_property
    def unedited(self) -> list[dict[str, Any]]:
        """The lines as a run's `pre.jsonl` has them."""
        return [_side(line, "pre", "pre_error") for line in self.lines]


def run_id(run: Mapping[str, Any]) -> str:
    """Return the id of a run: a hash of all of its file but the environment."""
    return hash_json({name: value for name, value in run.items() if name != "environment"})[:16]


def read_submission(folder: Path) -> Submission:
    """Read a folder that a stranger made.

    Raises:
        Refused: it is anything but two plain files, or a file breaks a limit, the schema or good manners.
    """
    _check_folder(folder)
    data = read_run_file(folder / RUN)
    try:
        run = migrated(data, Path(RUN))
    except BadInput as error:
        raise Refused("schema-version", str(error)) from error
    check_run(run)
    benchmark, lines = BENCHMARKS.get(run["protocol"]["name"]), []
    for number, line in enumerate(read_lines(folder / RECORDS), 1):
        check_line(line, benchmark, f"{RECORDS}:{number}")
        lines.append(line)
    if not lines:
        raise Refused("empty", f"{RECORDS} holds no records")
    return Submission(folder, run, tuple(lines))


def write_submission(run: Run, out: Path, *, withhold: bool = False) -> tuple[Path, int]:
    """Write a finished run as a submission, equal runs as equal bytes.

    Letters of a generated text that could be markup, and control characters, are replaced; stored scores stay. Places
    on this machine are left out, and of a sequential run all but what was measured after the last edit.

    Args:
        run: of `evaluate`.
        out: the folder to write.
        withhold: put the hash of each request in its place, where the data set's texts may not be passed on.

    Returns:
        The folder, and in how many records letters were replaced.

    Raises:
        BadInput: the folder is not empty, the run's texts are not scored yet, it holds what no board would take, or
            requests are to be withheld that generated texts begin with.
    """
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty; name a new folder")
    before = {line["case_id"]: line for line in run.unedited}
    lines, replaced = [], 0
    for case in run.cases:
        line = _joined(case, before.get(case["case_id"], {}))
        if withhold:
            _withhold(line)
        replaced += _neutralise(line)
        lines.append(json_line(line))
    kept = {name: value for name, value in run.data.items() if name not in UNCHECKED}
    data = {**kept, "environment": {k: v for k, v in run.data["environment"].items() if k not in PRIVATE}}
    try:
        parse(json_line(data).encode(), RUN)
        check_run(data)
    except Refused as refused:
        raise BadInput(f"{run.folder} cannot be submitted: {refused}") from refused
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / RECORDS, gzip.compress("".join(lines).encode(), mtime=0))
    write_json(out / RUN, data)
    return out, replaced


def _check_folder(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise Refused("no-folder", f"{folder.name} is no plain folder")
    found = sorted(folder.iterdir())
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise Refused("no-plain-file", f"{path.name!r} is a link, a folder or a device")
        if path.name not in {RUN, RECORDS}:
            raise Refused("foreign-file", f"{path.name!r} has no place in a submission: {RUN} and {RECORDS} have")
    for name in (RUN, RECORDS):
        if folder / name not in found:
            raise Refused("missing-file", f"there is no {name}")


def _joined(case: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: before[name] for name in ("requested_rewrite", "target_tokens") if name in before}
    pre = {"pre": before["pre"]} if "pre" in before else {}
    error = before.get("error", {"stage": "read", "reason": "the unedited model has no line for this record"})
    return {**shared, **case, **(pre or {"pre_error": error})}


def _withhold(line: dict[str, Any]) -> None:
    if any(line.get(side, {}).get("text") for side in ("post", "pre")):
        raise BadInput("generated texts begin with their prompts, so none can be withheld: evaluate with --no-generate")
    if (request := line.get("requested_rewrite")) is not None:
        line["requested_rewrite"] = {WITHHELD: hash_json(request), "relation_id": request.get("relation_id")}


def _side(line: Mapping[str, Any], side: str, error: str) -> dict[str, Any]:
    if error in line:
        return {"case_id": line["case_id"], "error": line[error]}
    return {name: line[name] for name in ("case_id", "requested_rewrite", "target_tokens", side)}


def _neutralise(line: dict[str, Any]) -> int:
    """Replace markup and control characters in a line's generated texts; return 1 if there were any."""
    found = 0
    for side in ("post", "pre"):
        texts = line.get(side, {}).get("text")
        if texts and any(text and (MARKUP.search(text) or UNSEEN.search(text)) for text in texts):
            clean = [text and UNSEEN.sub(UNKNOWN, MARKUP.sub(_lookalike, text)) for text in texts]
            line[side] = {**line[side], "text": clean}
            found = 1
    return found


def _lookalike(found: re.Match[str]) -> str:
    return "".join(LOOKALIKES.get(letter, letter) for letter in found.group())


class Candidates(NamedTuple):
    """What lies below a folder of submissions."""

    folders: list[Path]
    """Folders that hold a file, or nothing: each is a submission, or none."""
    loose: list[Path]
    """Files beside them, which belong to no submission."""


def find_candidates(root: Path) -> Candidates:
    """Return all that could be taken for a submission below a root: what a board ranks, and what a check looks at.

    None may hide by its names; only a repository's own `.git` and `.github` are passed over.
    """
    paths = [path for path in root.rglob("*") if path.relative_to(root).parts[0] not in {".git", ".github"}]
    files = [path for path in paths if path.is_symlink() or not path.is_dir()]
    folders = {path.parent for path in files} - {root}
    empty = {path for path in paths if path.is_dir() and not path.is_symlink() and not any(path.iterdir())}
    loose = [path for path in files if path.parent == root and path.name not in BESIDE]
    return Candidates(sorted(folders | empty), sorted(loose))
