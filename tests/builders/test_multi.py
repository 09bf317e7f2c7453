"""What can all be edited at once, taken from data sets of others: the rule, the counts, what comes along."""

from pathlib import Path
from typing import Any

import pytest

from counterfact.builders import multi
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl, write_json
from tests.support.evaluating import counterfact_record, references, zsre


def foreign(folder: Path) -> Path:
    """A file in which two records are about one fact, one contradicts another by its prompt, and one is bad."""
    records: list[dict[str, Any]] = [counterfact_record(case_id) for case_id in range(7)]
    records[2]["requested_rewrite"]["subject"] = " harlan  REED"
    records[3]["requested_rewrite"] |= {"subject": "Harlan Reed", "relation_id": "P19"}
    records[4]["requested_rewrite"]["relation_id"] = "P937"
    records[5]["requested_rewrite"]["prompt"] = "{} and {}"
    records[6]["paraphrase_prompts"] = records[1]["paraphrase_prompts"]
    write_json(folder / "counterfact.json", records[::-1])
    write_json(folder / "attribute_snippets.json", references())
    return folder / "counterfact.json"


def test_the_first_of_each_conflict_stays(tmp_path: Path) -> None:
    report = multi.build(tmp_path / "out", foreign(tmp_path))
    assert [record["case_id"] for record in read_jsonl(tmp_path / "out" / "records.jsonl")] == [0, 1, 2, 4]
    assert report.meta["counts"] == {
        "read": 7,
        "records": 4,
        "subjects": 4,
        "subjects_read": 6,
        "dropped": {
            "cannot be read": 1,
            "contradicts another record": 1,
            "subject and relation of another record": 1,
        },
    }
    assert list(read_jsonl(tmp_path / "out" / "dropped.jsonl")) == [
        {"case_id": 3, "reason": "subject and relation of another record"},
        {"case_id": 6, "reason": "contradicts another record"},
    ]
    data = load_dataset(tmp_path / "out")
    assert data.label.startswith("counterfact-multi@2+") and data.content_hash == report.meta["content_hash"]
    assert data.reference_texts is not None and data.reference_texts.get("P19", "Q0")


def test_every_subject_and_relation_is_there_once_and_subjects_of_single_facts_stay(tmp_path: Path) -> None:
    multi.build(tmp_path / "out", foreign(tmp_path))
    kept = [record["requested_rewrite"] for record in read_jsonl(tmp_path / "out" / "records.jsonl")]
    keys = [(" ".join(rewrite["subject"].lower().split()), rewrite["relation_id"]) for rewrite in kept]
    assert len(keys) == len(set(keys))
    answers = {rewrite["prompt"].format(rewrite["subject"]): rewrite["target_new"]["str"] for rewrite in kept}
    assert len(answers) == len(kept)


def test_a_second_time_finds_nothing_to_leave_out(tmp_path: Path) -> None:
    first = multi.build(tmp_path / "first", foreign(tmp_path))
    again = multi.build(tmp_path / "again", tmp_path / "first")
    assert again.meta["content_hash"] == first.meta["content_hash"] and again.meta["counts"]["dropped"] == {}
    files = [(tmp_path / name / "reference_texts.jsonl").read_bytes() for name in ("first", "again")]
    assert files[0] == files[1]
    assert multi.build(tmp_path / "first", tmp_path / "counterfact.json").reused


def test_other_records_are_refused(tmp_path: Path) -> None:
    zsre(tmp_path / "zsre.json")
    with pytest.raises(BadInput, match="expected CounterFact records"):
        multi.build(tmp_path / "out", tmp_path / "zsre.json")
    assert not (tmp_path / "out").exists()
