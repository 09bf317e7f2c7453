"""From runs and submissions to entries of a board."""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from counterfact.contracts.benchmarks import Benchmark
from counterfact.contracts.metrics import COMPOSITES, METRICS
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json
from counterfact.core.runs import RUN, kind_of
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.store import load_run
from counterfact.leaderboard.ranking import benchmark_of_run, columns_of
from counterfact.leaderboard.reading import Refused
from counterfact.leaderboard.schema import WITHHELD, ids_of
from counterfact.leaderboard.submission import PRIVATE, RECORDS, find_candidates, read_submission, run_id
from counterfact.statistics.intervals import INTERVALS, Estimate, Rows, bootstrap, column_means, mean_interval
from counterfact.statistics.summary import blocks_of

log = logging.getLogger(__name__)
TEXTS = 100
"""Records of a run whose first text is shown."""
LETTERS = 400
"""Of a text that is shown."""
EQUAL = 1e-6
"""How far a stored score may lie from the one computed here."""
LOOSE = "it lies in no folder of its own, where a submission has one"
UNEXPECTED = "could not be read, by a fault of this program"
Tell = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Entry:
    """One run on the board."""

    id: str
    run: Mapping[str, Any]
    cells: Mapping[str, list[Any]]
    """`[value, low, high, n]` of each column, x100 as printed; failures count as 0 where 0 is the worst."""
    scored: int
    """Records that have values."""
    records: str
    """Name of the table of its records."""
    values: Mapping[str, Rows] = field(repr=False, compare=False)
    """Per metric, shape (records of the split,); a failure is 0 where 0 is the worst value, else NaN."""
    packed_detail: bytes = field(repr=False, compare=False)
    packed_table: bytes = field(repr=False, compare=False)

    @property
    def detail(self) -> str:
        """JSON of what the page of the run shows."""
        return zlib.decompress(self.packed_detail).decode()

    @property
    def table(self) -> str:
        """JSON of its records, which runs on the same records share."""
        return zlib.decompress(self.packed_table).decode()


def load_entries(root: Path, tell: Tell = lambda _stage, _done, _of: None) -> tuple[list[Entry], dict[str, str]]:
    """Read every evaluation and submission below a folder; return them, and why others were left out, by folder.

    Sweeps and traces are passed over. A run's file that lies loose in the folder is left out: no check looks there.

    Args:
        root: the folder.
        tell: function called with what is being done, how much of it is done, and the total.

    Raises:
        BadInput: there are none.
    """
    found = find_candidates(root)
    folders = [folder for folder in found.folders if _is_ours(folder)]
    entries: dict[str, Entry] = {}
    tables: dict[str, bytes] = {}
    left_out = {path.name: LOOSE for path in found.loose if path.name in {RUN, RECORDS}}
    for done, folder in enumerate(folders, 1):
        entry, reason = _read(folder)
        if entry is None:
            left_out[str(folder.relative_to(root))] = reason
        else:
            shared = tables.setdefault(entry.records, entry.packed_table)
            entries.setdefault(entry.id, replace(entry, packed_table=shared))  # equal runs in two places are one
        tell("reading runs", done, len(folders))
    if not entries:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadInput(f"no finished run in {root}{': ' + why if why else ''}; expected what `evaluate` wrote")
    return list(entries.values()), left_out


def entry_of(run: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> Entry:
    """Return what a board shows of a run; records that are missing or failed count as failures.

    Raises:
        Refused: a record is not of the split.
    """
    ids = ids_of(run["dataset"]["record_ids"])
    lines = [line for line in cases if "post" in line]
    values = _values(lines, ids, benchmark_of_run(run))
    table = script_json([_record(line) for line in lines])
    name = sha256(table.encode()).hexdigest()[:16]
    place = {case_id: index for index, case_id in enumerate(ids)}
    scored = [place[line["case_id"]] for line in lines]
    shown = details(run, lines, values, scored)
    detail = script_json({"id": run_id(run), "records": name, **shown})
    cells = cells_of(run, values, scored)
    return Entry(run_id(run), run, cells, len(lines), name, values, _packed(detail), _packed(table))


def cells_of(run: Mapping[str, Any], values: Mapping[str, Rows], scored: Sequence[int]) -> dict[str, list[Any]]:
    """Return `[value, low, high, n]` of each column; failures count as 0 where 0 is the worst.

    Args:
        run: a run file; of it only the interval of a composite is believed, and only where no record failed and the
            interval is of today's definition.
        values: per metric, shape (records of the split,).
        scored: places of the records that have values.

    Raises:
        Refused: the run file says something else of its records than they do.
    """
    benchmark = benchmark_of_run(run)
    cells = {}
    for name in columns_of(benchmark):
        stored = run["metrics"].get(name)
        if stored is None:
            continue
        if name in METRICS:
            scale, finite = METRICS.get(name).scale, values[name][np.isfinite(values[name])]
            if stored["definition"] == METRICS.get(name).definition:
                _agree(name, stored["value"], _mean(values[name][scored]), scale)
            found = mean_interval(finite.tolist(), METRICS.get(name).interval, METRICS.get(name).bounds)
        else:
            scale, table = 100.0, np.stack([values[part] for part in benchmark.score_parts], axis=1)
            combine = COMPOSITES.get(name).combine
            if stored["definition"] == COMPOSITES.get(name).definition:
                _agree(name, stored["value"], float(combine(column_means(table[None, scored]))[0]), scale)
            believed = len(scored) == len(table) and stored.get("interval", 1) == INTERVALS
            seed = derive_seed(run["seeds"]["run"], "board", name)
            found = _stored(stored, scale) if believed else bootstrap([table], combine, seed)
        estimate = [None if x is None else round(x * scale, 6) for x in (found.value, found.low, found.high)]
        cells[name] = [*estimate, found.n]
    return cells


def _stored(entry: Mapping[str, Any], scale: float) -> Estimate:
    value, low, high = (None if entry[key] is None else entry[key] / scale for key in ("value", "low", "high"))
    return Estimate(value, entry["n"], low, high)


def _mean(values: Rows) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _agree(name: str, stored: float | None, computed: float, scale: float) -> None:
    """Raise unless a stored score is the one that the records give."""
    wanted = None if not np.isfinite(computed) else computed * scale
    both = stored is not None and wanted is not None
    if both and np.isclose(float(stored or 0), float(wanted or 0), rtol=EQUAL, atol=EQUAL):
        return
    if both or (stored is None) != (wanted is None):
        raise Refused("aggregate-differs", f"metrics.{name}.value is {stored!r:.40}, the records give {wanted!r}")


def details(
    run: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], values: Mapping[str, Rows], scored: Sequence[int]
) -> dict[str, Any]:
    """Return what the page of one run shows: settings, provenance, scores by relation, values and text of records."""
    parts = benchmark_of_run(run).score_parts
    names = [*parts, *(name for name in values if name not in parts and np.isfinite(values[name]).any())]
    relations: dict[str, list[list[float]]] = {}
    cases = []
    for index, (line, place) in enumerate(zip(lines, scored, strict=True)):
        found = [float(values[name][place]) for name in names]
        relations.setdefault(line["requested_rewrite"].get("relation_id") or "–", []).append(found)
        text = _text(line) if index < TEXTS else None
        cases.append([*map(_rounded, found)] + ([text] if text else []))
    means = [
        [name, len(rows), *map(_rounded, column_means(np.array([rows]))[0])] for name, rows in sorted(relations.items())
    ]
    kept = ("dataset", "model", "protocol", "seeds", "editor", "code", "n", "metrics", "pre", "environment")
    shown = {key: run[key] for key in kept}
    for section in ("metrics", "pre"):  # numbers of metrics that are not known here were checked by nobody
        shown[section] = {name: entry for name, entry in run[section].items() if name in METRICS or name in COMPOSITES}
    shown["environment"] = {key: value for key, value in run["environment"].items() if key not in PRIVATE}
    return {"names": names, "parts": parts, "relations": means, "cases": cases} | shown


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a script, whatever texts it holds.

    >>> script_json("</script>")
    '"\\\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _is_ours(folder: Path) -> bool:
    """Return whether a folder holds what a board ranks, or should: a submission, or an evaluation, whole or spoilt."""
    if (folder / RECORDS).exists() or not (folder / RUN).exists():
        return (folder / RECORDS).exists()
    try:
        return kind_of(read_json(folder / RUN)) not in {"trace", "sweep"}
    except (BadInput, OSError):
        return True


def _read(folder: Path) -> tuple[Entry | None, str]:
    """Return the entry of a run, or why there is none."""
    try:
        if (folder / RECORDS).exists():
            submission = read_submission(folder)
            return entry_of(submission.run, submission.cases), ""
        finished = load_run(folder)
        return entry_of(finished.data, finished.cases), ""
    except BadInput as error:
        return None, str(error)
    except Exception as error:  # a fault of ours must not take the other runs with it
        log.exception("%s: reading it failed", folder)
        return None, f"{UNEXPECTED}: {type(error).__name__}: {error}"


def _packed(text: str) -> bytes:
    return zlib.compress(text.encode(), 1)


def _values(lines: list[Mapping[str, Any]], ids: list[int], benchmark: Benchmark[Any]) -> dict[str, Rows]:
    place = {case_id: index for index, case_id in enumerate(ids)}
    if foreign := [line["case_id"] for line in lines if line["case_id"] not in place]:
        raise Refused("foreign-record", f"case {foreign[0]} is not of the split")
    names = [name for name in columns_of(benchmark) if name in METRICS]
    values = {name: np.full(len(place), 0.0 if _worst_is_zero(name) else np.nan) for name in names}
    for line, block in zip(lines, blocks_of(lines, "post"), strict=True):
        for name in names:
            value = METRICS.get(name).compute(block)
            values[name][place[line["case_id"]]] = np.nan if value is None else value
    return values


def _record(line: Mapping[str, Any]) -> list[Any]:
    """Return `[case id, relation, prompt, new object, true object]`."""
    rewrite = line["requested_rewrite"]
    if WITHHELD in rewrite:
        return [line["case_id"], rewrite.get("relation_id"), "(not shown)", "–", None]
    true = (rewrite.get("target_true") or {}).get("str")
    prompt = str(rewrite["prompt"]).replace("{}", str(rewrite["subject"]))
    return [line["case_id"], rewrite.get("relation_id"), prompt, rewrite["target_new"]["str"], true]


def _text(line: Mapping[str, Any]) -> str | None:
    return next((text[:LETTERS] for text in line["post"].get("text") or [] if text), None)


def _worst_is_zero(name: str) -> bool:
    return METRICS.get(name).bounds == (0.0, 1.0)


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
