"""What a submission is held against: the data sets that are known, and what unedited models score on them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import Benchmark
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_json, write_json
from counterfact.evaluation.store import Run
from counterfact.leaderboard.schema import WITHHELD
from counterfact.statistics.summary import blocks_of, record_values

FILE = "references.json"
SCHEMA = 2
"""Of the file; the first kept one protocol for each data set."""


@dataclass(frozen=True)
class References:
    """Trusted facts by data set and protocol, and by these and the model."""

    datasets: Mapping[str, Mapping[str, Any]]
    """By `dataset_key`: `{name, version, kind, record_ids, records: {case id: fingerprint}}`."""
    unedited: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By `unedited_key`: of each metric the value of every record, unscaled, by case id."""


def dataset_key(run: Mapping[str, Any]) -> str:
    """Return what the records of a run are kept under: the hash of its data set, and what is asked about them."""
    return f"{run['dataset']['content_hash']}/{run['dataset']['kind']}"


def unedited_key(run: Mapping[str, Any]) -> str:
    """Return what the unedited scores of a run are kept under: its records, the weights, and a chat template if any."""
    asked = run.get("protocol", {}).get("chat_template")
    return "/".join([dataset_key(run), run["model"]["weights_hash"], *([asked] if asked else [])])


def fingerprints(line: Mapping[str, Any], side: str) -> list[str]:
    """Return short hashes of a record: what is edited, and how many prompts of each sort are asked.

    A submission that leaves out a prompt which went badly has another one. The first is of the request's hash, which
    a submission may hold in the request's place; the second, of the request itself, is in references made before.
    """
    if side not in line:
        return []
    request = line["requested_rewrite"]
    sizes = {name: len(values) for name, values in line[side].items() if "_prompts_" in name}
    if WITHHELD in request:
        return [hash_json([request[WITHHELD], sizes])[:12]]
    return [hash_json([hash_json(request), sizes])[:12], hash_json([request, sizes])[:12]]


def references_of(runs: Iterable[Run]) -> References:
    """Return the references that trusted runs give; of the same records and model the first run counts."""
    datasets: dict[str, Mapping[str, Any]] = {}
    unedited: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for run in runs:
        dataset, key = run.data["dataset"], unedited_key(run.data)
        if key in unedited:
            continue
        unedited[key] = unedited_values(run.unedited, run.benchmark)
        records = {str(line["case_id"]): next(iter(fingerprints(line, "pre")), None) for line in run.unedited}
        kept = {name: dataset[name] for name in ("name", "version", "kind", "record_ids")}
        datasets.setdefault(dataset_key(run.data), {**kept, "records": records})
    return References(datasets, unedited)


def unedited_values(lines: Iterable[Mapping[str, Any]], benchmark: Benchmark[Any]) -> dict[str, dict[str, float]]:
    """Return, of each teacher-forced metric of its table, the unedited model's values, unscaled, by case id.

    These hold no sampled text, so that machines agree on them.
    """
    lines = [line for line in lines if "pre" in line]
    ids = [str(line["case_id"]) for line in lines]
    found = record_values(blocks_of(lines, "pre"), benchmark)
    sampled = {metric.symbol for metric in benchmark.text_metrics}
    return {
        name: {case: value for case, value in zip(ids, values, strict=True) if value is not None}
        for name, values in found.items()
        if name in benchmark.shown and name not in sampled
    }


def write_references(path: Path, references: References) -> None:
    """Write references as the file that `leaderboard check` looks for."""
    write_json(path, {"schema": SCHEMA, "datasets": references.datasets, "unedited": references.unedited})


def load_references(path: Path) -> References:
    """Read references.

    Raises:
        BadInput: the file is missing or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not {"datasets", "unedited"} <= set(value):
        raise BadInput(f"{path}: expected a file that `counterfact leaderboard references` wrote")
    if value.get("schema") == 1:
        return _with_protocols(value)
    if value.get("schema") != SCHEMA:
        raise BadInput(
            f"{path}: expected schema {SCHEMA} or earlier, got {value.get('schema')}; a newer version wrote it"
        )
    return References(value["datasets"], value["unedited"])


def _with_protocols(value: Mapping[str, Any]) -> References:
    """Read a file that kept one protocol for each data set."""
    kinds = {content_hash: dataset["kind"] for content_hash, dataset in value["datasets"].items()}
    pairs = [(key.partition("/"), scores) for key, scores in value["unedited"].items()]
    return References(
        {f"{content_hash}/{kinds[content_hash]}": dataset for content_hash, dataset in value["datasets"].items()},
        {f"{data}/{kinds[data]}/{weights}": scores for (data, _, weights), scores in pairs if data in kinds},
    )


def find_references(folder: Path) -> Path | None:
    """Return the nearest references file in a folder or above it."""
    places = [folder.resolve(), *folder.resolve().parents]
    return next((place / FILE for place in places if (place / FILE).is_file()), None)
