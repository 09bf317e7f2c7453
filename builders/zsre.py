"""Builds zsRE question answering: MEND's files, as they are distributed, become a folder of records.

Levy et al. Zero-Shot Relation Extraction via Reading Comprehension. CoNLL 2017. https://arxiv.org/abs/1706.04115.
The files: Mitchell et al. Fast Model Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309: a JSON list of
`{subject, src, pred, rephrase, alt, answers, loc, loc_ans, cond}`.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json, read_jsonl
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.zsre import ZSRE

from .build_folder import BuildReport, finished_build, write_build

_KEYS = ("subject", "src", "rephrase", "answers", "loc", "loc_ans")


def build(
    out: str | Path,
    source: str | Path | None = None,
    *,
    limit: int | None = None,
    name: str | None = None,
    version: str = "1",
) -> BuildReport:
    """Make a data set of a file, by default of the embedded one: `build("datasets/zsre")`.

    A record keeps its place in the file as `case_id`. Answers given as one text become a list of one, and of several
    locality answers the first is taken, as the method's own evaluation does; text is kept to the letter. An entry that
    cannot be edited is left out and counted with its reason.

    Args:
        out: folder to be made; it gets `records.jsonl`, `stats.json`, `build.json`.
        source: `zsre_mend_eval.json`, `zsre_mend_train.json`, or a `.jsonl` file of such entries.
        limit: number of records: the first ones of the file that can be used; all by default.
        name: name of the data set; by default `zsre`, or `zsre-embedded` for the embedded file.
        version: version of the data set.

    Raises:
        BadInput: the file is missing or no such list, `limit` is not positive, or no entry can be used.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise BadInput(f"expected a limit of at least 1, got {limit}")
    file = Path(source) if source else data_folder() / "zsre" / "eval.json"
    name = name or ("zsre" if source else "zsre-embedded")
    settings = {"size": limit, "name": name, "version": version}
    described = {"file": file.name, "sha256": _hash(file)}
    fingerprint = hash_json([described, settings, hash_file(Path(__file__))])
    if (finished := finished_build(Path(out), fingerprint)) is not None:
        return finished
    records, dropped = read_zsre(file, limit)
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
        "sources": {"zsre": described},
        "counts": counts,
    }
    files = {"records.jsonl": records, "stats.json": _stats(records)}
    return write_build(Path(out), fingerprint, files, meta, started=started, places={"zsre": str(file)})


def read_zsre(source: Path, size: int | None = None) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Read the first `size` usable entries, and count what was left out before the last of them, by reason."""
    records: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for place, entry in enumerate(_entries(source)):
        if size is not None and len(records) == size:
            break
        made = convert(entry, place)
        if isinstance(made, BadRecord):
            dropped[_kind_of_reason(made.reason)] += 1
        else:
            records.append(made)
    return records, dropped


def convert(entry: object, place: int) -> dict[str, Any] | BadRecord:
    """Return an entry in the form that `contracts.datasets` reads, or the reason why it cannot be used.

    >>> convert({"subject": "Ada", "src": "Who is Ada?", "rephrase": "Ada is who?", "answers": "a poet",
    ...          "loc": "nq question: who", "loc_ans": ["x", "y"]}, 3)["loc_ans"]
    'x'
    """
    if not isinstance(entry, Mapping):
        return BadRecord(place, f"not an object: {type(entry).__name__}")
    record = {"case_id": place} | {key: entry.get(key) for key in _KEYS}
    answers = record["answers"]
    record["answers"] = [answers] if isinstance(answers, str) else answers
    if isinstance(record["loc_ans"], list) and record["loc_ans"]:
        record["loc_ans"] = record["loc_ans"][0]
    if isinstance(record["answers"], list):
        record["answers"] = [answer for answer in record["answers"] if not isinstance(answer, str) or answer.strip()]
    parsed = ZSRE.read(record, place)
    return parsed if isinstance(parsed, BadRecord) else record


def _entries(source: Path) -> Iterator[Any]:
    if source.suffix == ".jsonl":
        yield from read_jsonl(source)
        return
    values = read_json(source)
    if not isinstance(values, list):
        raise BadInput(f"{source}: expected a JSON list in MEND's schema, got {type(values).__name__}")
    yield from values


def _kind_of_reason(reason: str) -> str:
    # Reasons quote the entry; what is counted is the kind.
    return re.sub(r"""'[^']*'|"[^"]*\"""", "…", reason)


def _stats(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "records": len(records),
        "subjects": len({record["subject"] for record in records}),
        "questions": len({record["src"] for record in records}),
        "answers": len({record["answers"][0] for record in records}),
        "locality_questions": len({record["loc"] for record in records}),
    }


def _hash(source: Path) -> str:
    if not source.is_file():
        raise BadInput(f"no file {source}: expected zsre_mend_eval.json or another file in MEND's schema")
    return hash_file(source)
