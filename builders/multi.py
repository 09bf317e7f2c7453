"""Takes from a CounterFact data set what can all be edited at once: `counterfact-multi`.

It is named so, and not as the published file of that kind, whose rule is not known; see `choosing.conflicts` for ours.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_json, read_jsonl
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .audit.loading import load_counterfact
from .audit.statistics import stats_json
from .build_folder import BuildReport, finished_build, write_build
from .choosing.conflicts import Claim, without_conflicts
from .code import code_behind

NAME = "counterfact-multi"


def build(out: str | Path, source: str | Path, *, name: str | None = None, version: str | None = None) -> BuildReport:
    """Write the records of a data set that contradict none before them: `build("multi", "counterfact.json")`.

    Records keep their case ids; reference texts of a folder, and snippets beside a file, come along.

    Args:
        out: folder to be made; it gets `records.jsonl`, `reference_texts.jsonl` where there are any, `stats.json`,
            `build.json` with all counts, and `dropped.jsonl`, what was left out and why.
        source: CounterFact records of any form that `contracts.datasets.load_dataset` reads.
        name: name of the data set, by default `counterfact-multi`.
        version: version of the data set, by default one by its content.

    Raises:
        BadInput: there is nothing to read, or it holds no CounterFact records with a true object.
    """
    started = time.perf_counter()
    data, name = load_counterfact(str(source)), name or NAME
    records = sorted(data.records, key=lambda record: record.case_id)
    read = hash_json([record.model_dump(by_alias=True, mode="json") for record in records])
    references = _reference_texts(Path(source))
    fingerprint = hash_json([read, hash_json(references), name, version, code_behind(__name__)])
    if (finished := finished_build(Path(out), fingerprint)) is not None:
        return finished
    kept, left_out = without_conflicts(records, claim_of)
    reasons = Counter([*(conflict for _, conflict in left_out), *(["cannot be read"] * len(data.bad))])
    files: dict[str, Any] = {
        "records.jsonl": [record.model_dump(by_alias=True, mode="json") for record in kept],
        "dropped.jsonl": [{"case_id": record.case_id, "reason": conflict} for record, conflict in left_out],
        "stats.json": stats_json(kept),
    }
    if references:
        files["reference_texts.jsonl"] = references
    meta = {
        "name": name,
        "version": version,
        "kind": "counterfact",
        "sources": {"records": {"data_set": data.label, "hash": read}},
        "counts": {
            "read": len(records) + len(data.bad),
            "records": len(kept),
            "subjects": len({record.requested_rewrite.subject for record in kept}),
            "subjects_read": len({record.requested_rewrite.subject for record in records}),
            "dropped": dict(sorted(reasons.items())),
        },
    }
    return write_build(Path(out), fingerprint, files, meta, started=started, places={"records": str(source)})


def claim_of(record: CounterFactRecord) -> Claim:
    """Return what a record asks for; without a relation's id, its prompt stands for the relation."""
    rewrite = record.requested_rewrite
    prompts = (record.request.filled, *record.paraphrase_prompts)
    return Claim(rewrite.subject, rewrite.relation_id or rewrite.prompt, prompts, record.request.target_new)


def _reference_texts(source: Path) -> list[Any]:
    if source.is_dir():
        path = source / "reference_texts.jsonl"
        return list(read_jsonl(path)) if path.exists() else []
    snippets = source.parent / "attribute_snippets.json"
    if source.suffix != ".json" or not snippets.exists():
        return []
    found = read_json(snippets)
    if not isinstance(found, list):
        raise BadInput(f"{snippets}: expected a JSON list of snippets, got {type(found).__name__}")
    return found
