"""Multiple choice: what is offered, how it is compared, and a run on records of our own."""

from pathlib import Path

import pytest

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.files import write_json
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.choice import OTHERS, ChoiceBlock, ChoiceRecord, queries, with_others
from counterfact.lm.model.language_model import LM
from tests.support.editing import nll
from tests.support.evaluating import CITIES, counterfact, counterfact_record, low_rank_edit, run_fake
from tests.support.models import tiny_lm


def choices(folder: Path) -> Dataset:
    return load_dataset(counterfact(folder / "data").path, benchmark="choice")


def good(records: object) -> list[ChoiceRecord]:
    return [each for each in records if isinstance(each, ChoiceRecord)]  # type: ignore[attr-defined]


def test_the_others_are_objects_of_the_relation(tmp_path: Path) -> None:
    data = choices(tmp_path)
    offered = with_others(data.records)  # type: ignore[arg-type]
    assert [type(each) for each in offered] == [type(each) for each in data.records]
    for each in good(offered):
        assert each.choices[:2] == (each.request.target_new, each.request.target_true)
        assert len(set(each.choices)) == len(each.choices)
        assert set(each.choices) == set(CITIES), "a relation of six objects offers all of them"


def test_the_draw_depends_on_the_record_and_the_objects_alone(tmp_path: Path) -> None:
    values = [counterfact_record(case_id) for case_id in range(40)]
    for value in values:
        value["requested_rewrite"]["target_new"]["str"] = f"Town {value['case_id'] % 20}"
    write_json(tmp_path / "many.json", values)
    records = load_dataset(tmp_path / "many.json", benchmark="choice").records
    forward = {each.case_id: each.others for each in good(with_others(records))}  # type: ignore[arg-type]
    backward = {each.case_id: each.others for each in good(with_others(records[::-1]))}  # type: ignore[arg-type]
    assert forward == backward
    assert {len(others) for others in forward.values()} == {OTHERS}
    assert forward[0] != forward[20], "the same edit under another number draws anew"


def test_other_relations_and_unknown_ones_offer_nothing(tmp_path: Path) -> None:
    values = [counterfact_record(case_id) for case_id in range(3)]
    values[1]["requested_rewrite"]["relation_id"] = "P20"
    values[2]["requested_rewrite"]["relation_id"] = None
    write_json(tmp_path / "mixed.json", values)
    records = load_dataset(tmp_path / "mixed.json", benchmark="choice").records
    assert [each.others for each in good(with_others(records))] == [(), (), ()]  # type: ignore[arg-type]


def test_a_record_without_a_true_object_costs_itself_here_and_its_neighbors_alone_elsewhere(tmp_path: Path) -> None:
    record = counterfact_record(0)
    del record["requested_rewrite"]["target_true"]
    write_json(tmp_path / "one.json", [record, counterfact_record(1)])
    [bad, _] = load_dataset(tmp_path / "one.json", benchmark="choice").records
    assert isinstance(bad, BadRecord) and "expected a true object" in bad.reason
    [free, _] = load_dataset(tmp_path / "one.json", benchmark="wild").records
    assert not isinstance(free, BadRecord)


def test_a_run_scores_every_choice(tmp_path: Path) -> None:
    data = choices(tmp_path)
    run, lm = run_fake(data, tmp_path / "results"), tiny_lm("gpt2", "float32")
    names = {"choice", "choice_para", "choice_near", "whole", "whole_para", "whole_near"}
    assert set(run.data["metrics"]) == {"S", "ES", "PS", "NS", *names}
    plain = {record.case_id: record for record in good(with_others(data.records))}  # type: ignore[arg-type]
    for line in run.cases:
        if "post" not in line:
            continue
        ChoiceBlock.model_validate(line["post"])
        record, found = plain[line["case_id"]], line["post"]["rewrite_prompts_choices"][0]
        assert line["post"]["choices"] == list(record.choices)
        totals = [edited_nll(lm, record, choice) for choice in record.choices]
        assert found["total"] == pytest.approx(totals, abs=1e-3)
        lengths = [len(lm.target_tokens(choice)) for choice in record.choices]
        per_token = [total / n for total, n in zip(totals, lengths, strict=True)]
        assert found["per_token"] == pytest.approx(per_token, abs=1e-3)
        assert list(line["target_tokens"].values()) == lengths[:2]
        pair = line["post"]["rewrite_prompts_probs"][0]
        assert [pair["target_new"], pair["target_true"]] == found["per_token"][:2]
    assert sum(isinstance(record, BadRecord) for record in data.records) == run.data["n"]["failed"] == 1
    assert run.data["metrics"]["choice"]["value"] <= run.data["metrics"]["ES"]["value"]


def edited_nll(lm: LM, record: ChoiceRecord, choice: str) -> float:
    """-log P of a whole choice after the rewrite prompt, in nats."""
    from dataclasses import replace

    return nll(lm, replace(record.request, target_new=choice), low_rank_edit(lm, record.request, 0))


def test_nothing_stands_before_a_choice_in_a_script_without_spaces(tmp_path: Path) -> None:
    value = counterfact_record(0)
    value["requested_rewrite"]["prompt"] = "{}出生于"
    write_json(tmp_path / "data.json", [value])
    [record] = load_dataset(tmp_path / "data.json", benchmark="choice").records
    assert isinstance(record, ChoiceRecord)
    assert {query.joiner for query in queries(record)} == {""}
