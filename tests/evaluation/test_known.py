"""Which records a model knows, held against what the library's own greedy decoding goes on with."""

from pathlib import Path

import pytest
import torch

from counterfact.builders.sources.pararel import load_pararel
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json, write_jsonl
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord, Record
from counterfact.evaluation import known
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.evaluation.known import known_records, write_known
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from tests.support.models import tiny_lm


def record(case_id: int, prompt: str, subject: str, true: str) -> CounterFactRecord:
    rewrite = {
        "prompt": prompt,
        "subject": subject,
        "target_new": {"str": f"not {true}"},
        "target_true": {"str": true},
    }
    prompts = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
    return CounterFactRecord.model_validate(
        {"case_id": case_id, "requested_rewrite": rewrite, **{name: [] for name in prompts}}
    )


def asked() -> list[CounterFactRecord]:
    """Every fiftieth tuple of the embedded facts, with its own object, and again with the first tuple's."""
    facts = [(one.templates[0], fact) for one in load_pararel(data_folder() / "pararel") for fact in one.tuples]
    chosen = [(prompt, fact.subject, one.object) for prompt, fact in facts[::50] for one in (fact, facts[0][1])]
    return [record(i, *parts) for i, parts in enumerate(chosen)]


def decoded(lm: LM, one: CounterFactRecord) -> bool:
    """Whether the library's greedy decoding begins with the true object."""
    prompt, target = lm.prompt_tokens(one.request.filled), lm.target_tokens(str(one.request.target_true))
    ids = torch.tensor([prompt])
    made = lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(target), do_sample=False, pad_token_id=0
    )
    return bool(made[0, len(prompt) :].tolist() == target)


def test_known_is_what_greedy_decoding_says() -> None:
    lm, records = load_lm("factlm", device="cpu"), asked()
    expected = [one.case_id for one in records if decoded(lm, one)]
    assert 10 < len(expected) < len(records) - 10
    assert [one.case_id for one in known_records(lm, records)] == expected


def test_a_record_that_cannot_be_asked_is_not_known() -> None:
    lm = load_lm("factlm", device="cpu")
    one = known_records(lm, asked())[0]
    long = record(1, "word " * lm.max_length + "{} is", "Oslo", "Norway")
    bad: list[Record | BadRecord] = [BadRecord(2, "broken"), long, one]
    assert known_records(lm, bad) == [one]


def test_no_records_are_no_known_records() -> None:
    assert known_records(tiny_lm(), []) == []


def test_the_first_known_records_become_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, records = load_lm("factlm", device="cpu"), asked()
    monkeypatch.setattr(known, "PART", 7)
    source, out = tmp_path / "all", tmp_path / "known"
    write_jsonl(source / "records.jsonl", [one.model_dump(exclude_none=True) for one in records])
    write_jsonl(source / "reference_texts.jsonl", [])
    write_json(source / "build.json", {"name": "ours", "version": "3"})
    knows = known_records(lm, records)
    taken, among = write_known(lm, source, out, 10)
    assert (taken, among) == (10, knows[9].case_id + 1)
    found = load_dataset(out)
    assert [one.case_id for one in found.records] == [one.case_id for one in knows[:10]]
    assert (found.label, found.reference_texts is not None) == ("ours-known-factlm@3", True)
    assert write_known(lm, source, out, len(records)) == (len(knows), len(records))


def test_a_model_that_knows_nothing_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "records.jsonl", [record(0, "{} is in", "Oslo", "Portugal").model_dump(exclude_none=True)])
    with pytest.raises(BadInput, match=r"factlm knows none of the 1 records of .*; build more"):
        write_known(load_lm("factlm", device="cpu"), tmp_path, tmp_path / "known", 5)
