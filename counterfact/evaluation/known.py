"""Records whose fact a model knows: only there does an edit change what the model says."""

from collections.abc import Sequence
from pathlib import Path

from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl, write_atomic, write_json, write_jsonl
from counterfact.core.records import BadRecord, Record
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import float32_products
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score

PART = 200
"""Records that are asked about at once where only so many are sought."""
RECORDS, REFERENCES = "records.jsonl", "reference_texts.jsonl"


def known_records(lm: LM, records: Sequence[Record | BadRecord], *, plan: Plan | None = None) -> list[Record]:
    """Return the records whose rewrite prompt the unedited model continues greedily with the true object.

    That is so where every token of the true object is the likeliest one, given the prompt and the tokens before it.

    Args:
        lm: the model.
        records: records of any benchmark, in any number.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        Those that are known, in order; records without a true object, or that cannot be scored, are not among them.
    """
    asked: list[tuple[Record, Query]] = []
    for record in records:
        if isinstance(record, BadRecord):
            continue
        request = record.request
        if request.target_true is not None:
            asked.append((record, Query(request.filled, (request.target_true,), request.joiner)))
    with float32_products(lm.precision):
        scores = score(lm, [query for _, query in asked], plan=plan)
    return [
        record
        for (record, _), found in zip(asked, scores, strict=True)
        if not isinstance(found, Unscored) and all(found[0].correct)
    ]


def write_known(lm: LM, folder: Path, out: Path, most: int) -> tuple[int, int]:
    """Write the first records of a folder that a model knows to a folder of the same form.

    Args:
        lm: the model.
        folder: a data set as `counterfact build` writes it.
        out: the data set to make; it is named as the first, `-known` and the model.
        most: how many records to take; the rest of the data set is not asked about.

    Returns:
        How many records were taken, and among how many.

    Raises:
        BadInput: there is no such data set, or the model knows none of its records.
    """
    data, known, asked = load_dataset(folder), list[Record](), 0
    while len(known) < most and asked < len(data.records):
        part = data.records[asked : asked + PART]
        known += known_records(lm, part)
        asked += len(part)
    known = known[:most]
    if not known:
        raise BadInput(f"{lm.name} knows none of the {asked:,} records of {folder}; build more, or take another model")
    asked = 1 + [record.case_id for record in data.records].index(known[-1].case_id) if len(known) == most else asked
    values = {value["case_id"]: value for value in read_jsonl(folder / RECORDS)}
    write_jsonl(out / RECORDS, [values[record.case_id] for record in known])
    if (folder / REFERENCES).exists():
        write_atomic(out / REFERENCES, (folder / REFERENCES).read_bytes())
    write_json(out / "build.json", {"name": f"{data.name}-known-{Path(lm.name).name}", "version": data.version})
    return len(known), asked
