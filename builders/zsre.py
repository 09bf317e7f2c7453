"""Builds zsRE question answering: MEND's files, or others that can be asked as zsRE, become a folder of records.

Levy et al. Zero-Shot Relation Extraction via Reading Comprehension. CoNLL 2017. https://arxiv.org/abs/1706.04115.
The files: Mitchell et al. Fast Model Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309: a JSON list of
`{subject, src, pred, rephrase, alt, answers, loc, loc_ans, cond}`.
"""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from counterfact.contracts.datasets import read_records, read_values
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json
from counterfact.core.places import data_folder
from counterfact.core.provenance import code_hash
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.zsre import ZSRE, ZsreRecord

from .build_folder import BuildReport, finished_build, write_build


def build(
    out: str | Path,
    source: str | Path | None = None,
    *,
    limit: int | None = None,
    name: str | None = None,
    version: str | None = None,
) -> BuildReport:
    """Make a data set of a file, by default of the embedded one: `build("datasets/zsre")`.

    Files are read as `contracts.datasets.load_dataset` reads them for zsRE. A record keeps its number, else its place
    in the file, as `case_id`, and all that training and evaluation read of it; text is kept to the letter. An entry
    that cannot be edited is left out and counted with its reason.

    Args:
        out: folder to be made; it gets `records.jsonl`, `stats.json`, `build.json`.
        source: `zsre_mend_eval.json`, `zsre_mend_train.json`, or a file of another form that docs/formats.md names.
        limit: number of records: the first ones of the file that can be used; all by default.
        name: name of the data set; by default `zsre`, or `zsre-embedded` for the embedded file.
        version: version of the data set, by default 1 for the whole embedded file, else by its content.

    Raises:
        BadInput: the file is missing or no such list, `limit` is not positive, or no entry can be used.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise BadInput(f"expected a limit of at least 1, got {limit}")
    file = Path(source) if source else data_folder() / "zsre" / "eval.json"
    name = name or ("zsre" if source else "zsre-embedded")
    version = version or ("1" if source is None and limit is None else None)
    settings = {"size": limit, "name": name, "version": version}
    described = {"file": file.name, "sha256": _hash(file)}
    reading = code_hash("counterfact.evaluation.formats", "counterfact.evaluation.benchmarks")
    fingerprint = hash_json([described, settings, hash_file(Path(__file__)), reading])
    if (finished := finished_build(Path(out), fingerprint)) is not None:
        return finished
    records, dropped, form, notes = read_zsre(file, limit)
    if not records:
        raise BadInput(f"{file}: no entry can be used; the reasons: {dict(dropped)}")
    counts = {
        "read": len(records) + sum(dropped.values()),
        "records": len(records),
        "dropped": dict(sorted(dropped.items())),
    }
    meta = {
        "name": name,
        "version": version,
        "kind": "zsre",
        "settings": settings,
        "sources": {"zsre": {**described, "form": form, "notes": list(notes)}},
        "counts": counts,
    }
    files = {"records.jsonl": records, "stats.json": _stats(records)}
    return write_build(Path(out), fingerprint, files, meta, started=started, places={"zsre": str(file)}, base="1")


class ZsreEntries(NamedTuple):
    """Records of a file, and what was left out."""

    records: list[dict[str, Any]]
    dropped: Counter[str]
    """Number of entries left out, by reason."""
    form: str
    """Whose form the file has."""
    notes: tuple[str, ...]
    """How it was read, where that is not plain from its form."""


def read_zsre(source: Path, size: int | None = None) -> ZsreEntries:
    """Read the first `size` usable entries of a file; what is left out is counted before the last of them.

    Raises:
        BadInput: the file is missing, its form is not known or cannot be read, or no entry can be used.
    """
    reading = read_records(read_values(source), source, ZSRE)
    records: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for record in reading.records:
        if size is not None and len(records) == size:
            break
        if isinstance(record, ZsreRecord):
            records.append(record.model_dump(exclude_defaults=True, mode="json"))
        elif isinstance(record, BadRecord):
            dropped[_kind_of_reason(record.reason)] += 1
    return ZsreEntries(records, dropped, reading.form, reading.notes)


def _kind_of_reason(reason: str) -> str:
    # Reasons quote the entry; what is counted is the kind.
    return re.sub(r"""'[^']*'|"[^"]*\"""", "…", reason)


def _stats(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "records": len(records),
        "subjects": len({record["subject"] for record in records}),
        "questions": len({record["src"] for record in records}),
        "answers": len({record["answers"][0] for record in records}),
        "locality_questions": len({question for record in records for question in _unrelated(record)}),
    }


def _unrelated(record: dict[str, Any]) -> list[str]:
    alone = [] if record["loc"] is None else [record["loc"]]
    return alone + [each["prompt"] for each in record.get("locality", [])]


def _hash(source: Path) -> str:
    if not source.is_file():
        raise BadInput(f"no file {source}: expected zsre_mend_eval.json or another file in MEND's schema")
    return hash_file(source)
