"""Results on disk: `run.json` with a schema number of its own, and the lines beside it.

A file of a newer schema is refused; one of an older schema is brought up to date by a chain of pure functions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark
from counterfact.contracts.metrics import TextMetric
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, read_jsonl, write_json
from counterfact.core.runs import RUN, check_kind, find_run_folders
from counterfact.evaluation.schedule import Schedule
from counterfact.statistics.intervals import INTERVALS
from counterfact.statistics.summary import Side, blocks_of, summarise, with_intervals

SCHEMA = 2
CASES, PRE = "cases.jsonl", "pre.jsonl"


def _with_schedule(data: dict[str, Any]) -> dict[str, Any]:
    """Bring schema 1 to 2: a schedule in the place of `edits_at_once`, and no wording of the metrics of texts."""
    before = data.get("protocol")
    if not isinstance(before, dict) or type(before.get("edits_at_once")) is not int:
        raise BadInput("schema 1: expected a `protocol` with an integer `edits_at_once`")
    protocol = {name: value for name, value in before.items() if name not in {"edits_at_once", "texts"}}
    if "editor" in data:
        protocol["schedule"] = dict(Schedule(before["edits_at_once"]).identity)
    return {**data, "protocol": protocol}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_schedule}
"""From schema n to n + 1, for every n that was ever released but the last."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its `run.json` holds."""

    folder: Path
    data: dict[str, Any]

    @property
    def benchmark(self) -> Benchmark[Any]:
        """The benchmark that it was measured by."""
        return BENCHMARKS.get(self.data["protocol"]["name"])

    @property
    def dataset(self) -> str:
        """`name@version`."""
        return f"{self.data['dataset']['name']}@{self.data['dataset']['version']}"

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.data["model"]["name"])

    @property
    def editor(self) -> str:
        """The editor's name."""
        return str(self.data["editor"]["name"])

    @property
    def known_of(self) -> int | None:
        """Among how many records those were sought whose fact the model knows; None: all records were taken."""
        read: int | None = self.data["dataset"].get("known_of")
        return read

    @property
    def variant(self) -> str:
        """The editor's name and the settings that the run chose itself."""
        return _with_notes(self.editor, self._choices)

    @property
    def label(self) -> str:
        """The variant and what else is special about the run, for tables."""
        notes = ["known facts"] if self.known_of is not None else []
        if seen := self.data["editor"].get("seen_in_training"):
            notes.append(f"trained on {seen} of these records")
        return _with_notes(self.editor, [*self._choices, *notes])

    @property
    def _choices(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.data["editor"]["given"].items()]

    @property
    def unedited_folder(self) -> Path:
        """Where the unedited model's values are."""
        return self.folder.parent / str(self.data["unedited"])

    @cached_property
    def cases(self) -> list[dict[str, Any]]:
        """The lines of `cases.jsonl`."""
        return list(read_jsonl(self.folder / CASES))

    @cached_property
    def unedited(self) -> list[dict[str, Any]]:
        """The lines of `pre.jsonl`."""
        return list(read_jsonl(self.unedited_folder / PRE))


def _with_notes(name: str, notes: Sequence[str]) -> str:
    return f"{name} ({', '.join(notes)})" if notes else name


def load_run(folder: Path) -> Run:
    """Read a finished run; intervals that an earlier rule gave are computed anew from its lines.

    Raises:
        BadInput: there is none, it is of another kind, or of a newer schema than this code knows.
    """
    folder = folder.parent if folder.name == RUN else folder
    if not (folder / RUN).exists():
        hint = "it is not finished: run the same evaluation again" if (folder / CASES).exists() else "no run is there"
        raise BadInput(f"no {RUN} in {folder}; {hint}")
    data = read_json(folder / RUN)
    check_kind(data, folder, "evaluation", "sweep")
    run = Run(folder, migrated(data, folder / RUN))
    if all(entry.get("interval", 1) >= INTERVALS for entry in run.data.get("metrics", {}).values()):
        return run
    seed = run.data["seeds"]["run"]
    sides: dict[str, tuple[Side, list[dict[str, Any]]]] = {
        "metrics": ("post", run.cases),
        "pre": ("pre", run.unedited),
    }
    anew = {
        section: with_intervals(run.data[section], summarise(blocks_of(lines, side), run.benchmark, seed))
        for section, (side, lines) in sides.items()
    }
    return Run(folder, {**run.data, **anew})


def find_runs(*roots: Path) -> list[Run]:
    """Read all finished evaluations below some folders, each once; runs of other kinds are passed over.

    Raises:
        BadInput: there are none.
    """
    return [load_run(folder) for folder in find_run_folders(roots, "evaluation")]


def lines_of(folder: Path) -> Iterator[Path]:
    """Yield every file of lines of a run, of the run itself and of a sequential run's other passes."""
    yield folder / CASES
    yield from sorted(folder.glob(f"*/{CASES}"))


def migrated(data: Any, path: Path) -> dict[str, Any]:
    """Bring what a file holds up to the present schema.

    Raises:
        BadInput: it has no schema, a newer one, or one that was never released.
    """
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int:
        raise BadInput(f"{path}: expected a run file with an integer `schema`, got {schema!r}")
    if schema > SCHEMA:
        raise BadInput(f"{path} is of schema {schema}, and this code knows up to {SCHEMA}: update the code to read it")
    while schema < SCHEMA:
        if schema not in MIGRATIONS:
            raise BadInput(f"{path} is of schema {schema}, which was never released; known are 1 to {SCHEMA}")
        data = MIGRATIONS[schema](data)
        schema += 1
    return {**data, "schema": schema}


def results(
    benchmark: Benchmark[Any], cases: Sequence[Mapping[str, Any]], unedited: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """Return the sections of a run file that are computed from its lines: how many records, and metrics.

    Args:
        benchmark: gives the metrics.
        cases: lines of `cases.jsonl`.
        unedited: lines of `pre.jsonl`, all of them.
        seed: of the run.
    """
    post = summarise(blocks_of(cases, "post"), benchmark, seed)
    pre = summarise(blocks_of(unedited, "pre"), benchmark, seed)
    return {
        "n": {**counts_of(cases, "post", benchmark), "unedited": counts_of(unedited, "pre", benchmark)},
        "metrics": {name: summary.as_json() for name, summary in post.items()},
        "pre": {name: summary.as_json() for name, summary in pre.items()},
    }


def write_run(folder: Path, data: Mapping[str, Any], environment: Mapping[str, Any]) -> Run:
    """Compute counts and metrics from the lines in a folder, and write `run.json`.

    Args:
        folder: of the run; its unedited values lie beside it.
        data: everything but what is computed from lines.
        environment: what may differ between equal runs.
    """
    cases = list(read_jsonl(folder / CASES))
    unedited = list(read_jsonl(folder.parent / data["unedited"] / PRE))
    computed = results(BENCHMARKS.get(data["protocol"]["name"]), cases, unedited, data["seeds"]["run"])
    write_json(folder / RUN, {**data, **computed, "environment": dict(environment)})
    return load_run(folder)


def counts_of(lines: Sequence[Mapping[str, Any]], side: str, benchmark: Benchmark[Any]) -> dict[str, Any]:
    """Return how many records were asked about, scored and failed, with reasons, and which values are missing."""
    errors = [(line["error"]["stage"], line["error"]["reason"]) for line in lines if "error" in line]
    blocks = [line[side] for line in lines if side in line]
    return {
        "asked": len(lines),
        "scored": len(blocks),
        "failed": len(errors),
        "reasons": [{"stage": stage, "reason": why, "n": n} for (stage, why), n in _ordered(errors)],
        "values_not_a_number": sum(
            value is None
            for block in blocks
            for name, probabilities in block.items()
            if name.endswith("_probs")
            for pair in probabilities
            for value in pair.values()
        ),
        "texts_missing": [
            {"reason": why, "n": n} for why, n in _ordered(_missing_texts(blocks, benchmark.text_metrics))
        ],
    }


def _missing_texts(blocks: Iterable[Mapping[str, Any]], metrics: Sequence[TextMetric]) -> list[str]:
    """Return why texts, and numbers taken of them, are missing: one reason for each."""
    reasons = []
    for block in blocks:
        reasons += [f"text: {why}" for why in block.get("text_missing", {}).values()]
        if any(text is not None for text in block.get("text") or []):
            without = [metric for metric in metrics if block.get(metric.key) is None]
            if len(without) == len(metrics):
                reasons.append("metrics of texts: deferred")
            else:
                reasons += [f"{metric.symbol}: {metric.missing}" for metric in without]
    return reasons


def _ordered(things: Iterable[Any]) -> list[tuple[Any, int]]:
    return sorted(Counter(things).items(), key=lambda item: (-item[1], item[0]))
