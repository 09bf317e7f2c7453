"""Files that people have: whose form they are of, what each record becomes, and what is said about the rest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.builders.zsre import read_zsre
from counterfact.contracts.datasets import BLANKS, Dataset, load_dataset
from counterfact.contracts.formats import FORMATS
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_jsonl, write_json
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord
from counterfact.editing.requests import encode
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.evaluation.benchmarks.counterfact_plus import plus_prompts
from counterfact.evaluation.benchmarks.zsre import ZSRE, ZsreRecord
from counterfact.evaluation.harness import evaluate_unedited
from counterfact.evaluation.task import Options
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.scoring import score
from tests.support.evaluating import counterfact_record, run_identity
from tests.support.models import tiny_lm


def official(**changes: Any) -> dict[str, Any]:
    rewrite = {
        "prompt": "{} was cast by",
        "relation_id": "P176",
        "target_new": {"str": "Ulmar", "id": "Q2"},
        "target_true": {"str": "Brenn", "id": "Q1"},
        "subject": "the Hallam bell",
    }
    value = {
        "case_id": 0,
        "pararel_idx": 4,
        "requested_rewrite": {**rewrite, **changes.pop("rewrite", {})},
        "paraphrase_prompts": ["Whoever cast the Hallam bell was"],
        "neighborhood_prompts": ["The Osk bell was cast by"],
        "attribute_prompts": [],
        "generation_prompts": [],
    }
    return value | changes


def easyedit(**changes: Any) -> dict[str, Any]:
    value = {
        "case_id": 7,
        "prompt": "The Hallam bell was cast by",
        "target_new": "Ulmar",
        "subject": "the Hallam bell",
        "ground_truth": "Brenn",
        "rephrase_prompt": "Whoever rings the Hallam bell knows",
        "locality_prompt": "The Osk bell was cast by",
        "locality_ground_truth": "Brenn",
    }
    return value | changes


def tracing(**changes: Any) -> dict[str, Any]:
    value = {
        "relation": "{} was cast by",
        "relation_prefix": "",
        "relation_suffix": " was cast by",
        "prompt": "The Hallam bell was cast by",
        "relation_id": "P176",
        "target_false_id": "Q2",
        "target_true_id": "Q1",
        "target_true": " Brenn",
        "target_false": " Ulmar",
        "subject": "The Hallam bell",
    }
    return value | changes


def mend(**changes: Any) -> dict[str, Any]:
    value = {
        "subject": "the Hallam bell",
        "src": "Who cast the Hallam bell?",
        "pred": "Osk",
        "rephrase": "By whom was the Hallam bell cast?",
        "alt": "Ulmar",
        "answers": ["Brenn", "Old Brenn"],
        "loc": "nq question: who counts the geese",
        "loc_ans": "nobody",
        "cond": "Osk >> Ulmar || Who cast the Hallam bell?",
    }
    return value | changes


def knowedit(**changes: Any) -> dict[str, Any]:
    value = {
        "subject": "the Hallam bell",
        "prompt": "Who cast the Hallam bell?",
        "target_new": "Ulmar",
        "ground_truth": [[], ["Brenn", "Old Brenn"]],
        "rephrase_prompt": "By whom was the Hallam bell cast?",
        "portability": {"Reasoning": [{"prompt": "Where is its maker from?", "ground_truth": "Osk"}]},
        "locality": {
            "Relation_Specificity": [{"prompt": "The Hallam bell weighs", "ground_truth": [["a ton", "1 t"]]}],
            "Forgetfulness": [{"prompt": "The Hallam bell, not by Ulmar, is by", "ground_truth": []}],
        },
    }
    return value | changes


def qaedit(**changes: Any) -> dict[str, Any]:
    value = {
        "id": 12,
        "source": "NQ",
        "prompt": "Who cast the Hallam bell?",
        "target": "Brenn",
        "subject": "the Hallam bell",
        "rephrase": "By whom was the Hallam bell cast?",
        "locality": [{"loc": "who counts geese", "loc_ans": "nobody"}, {"loc": "who counts cows", "loc_ans": "Una"}],
    }
    return value | changes


def ripple() -> dict[str, Any]:
    return {"example_type": "popular", "edit": {"prompt": "The bell is by"}, "Relation_Specificity": []}


def mquake() -> dict[str, Any]:
    return {"case_id": 1, "requested_rewrite": [official()["requested_rewrite"]], "new_single_hops": []}


def facts() -> dict[str, Any]:
    return {"known_id": 0, "subject": "Osk", "attribute": "Una", "template": "{} is", "prompt": "Osk is"}


SAMPLES: dict[str, Any] = {
    "counterfact": official(),
    "counterfact_plus": official(distracting_neighborhood_prompts=["It is so. The Osk bell was cast by"]),
    "easyedit_counterfact": easyedit(),
    "flat_tracing": tracing(),
    "zsre": mend(),
    "knowedit": knowedit(),
    "qaedit": qaedit(),
    "ripple_edits": ripple(),
    "mquake": mquake(),
    "known_facts": facts(),
}


def load(folder: Path, *values: Any, benchmark: str | None = None) -> Dataset:
    (folder / "data.json").write_text(json.dumps(values), encoding="utf-8")
    return load_dataset(folder / "data.json", benchmark=benchmark)


def only(data: Dataset) -> Any:
    [record] = data.records
    assert not isinstance(record, BadRecord), record.reason
    return record


def test_every_form_is_told_by_its_keys_from_all_others() -> None:
    assert set(SAMPLES) == set(FORMATS)
    for name, value in SAMPLES.items():
        assert [other for other in FORMATS if FORMATS.get(other).recognises(value)] == [name]
    # KnowEdit without locality, and EasyEdit's file with one portability question, stay what they are.
    assert FORMATS.get("knowedit").recognises(knowedit(locality={}, ground_truth="Brenn"))
    assert FORMATS.get("easyedit_counterfact").recognises(easyedit(portability={"New Question": "Where?"}))


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [
        ("counterfact", "CounterFact (official keys)", "counterfact"),
        ("counterfact_plus", "CounterFact+", "counterfact"),
        ("easyedit_counterfact", "EasyEdit's CounterFact", "counterfact"),
        ("flat_tracing", "a flat tracing set", "counterfact"),
        ("zsre", "MEND's zsRE", "zsre"),
        ("knowedit", "KnowEdit", "zsre"),
        ("qaedit", "QAEdit", "zsre"),
    ],
)
def test_every_form_is_named_and_can_be_asked_as_zsre(name: str, title: str, kind: str, tmp_path: Path) -> None:
    data = load(tmp_path, SAMPLES[name])
    assert (data.form, data.kind) == (title, kind)
    assert data.described.endswith(f"data.json: {title}, 1 record")
    assert only(data).request.subject.lower() == "the hallam bell"
    asked = only(load(tmp_path, SAMPLES[name], benchmark="zsre"))
    assert isinstance(asked, ZsreRecord)
    assert asked.request.target_new == only(data).request.target_new


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ripple_edits", "is RippleEdits: it cannot be read yet"),
        ("mquake", "is MQuAKE: .* cannot be read yet"),
        ("known_facts", "is facts to trace.*counterfact trace --facts"),
    ],
)
def test_other_forms_are_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    for benchmark in (None, "zsre"):
        with pytest.raises(BadInput, match=said):
            load(tmp_path, SAMPLES[name], benchmark=benchmark)


def test_an_unknown_form_names_its_keys_and_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"keys found: colour, weight. Known: .*EasyEdit's CounterFact.*docs/formats.md"):
        load(tmp_path, {"colour": 1, "weight": 2})


def test_easyedit_becomes_counterfact(tmp_path: Path) -> None:
    data = load(tmp_path, easyedit())
    record = only(data)
    assert record.requested_rewrite.model_dump(by_alias=True, exclude_none=True) == {
        "prompt": "{} was cast by",
        "target_new": {"str": "Ulmar"},
        "target_true": {"str": "Brenn"},
        "subject": "The Hallam bell",
    }
    assert (record.case_id, record.request.filled) == (7, "The Hallam bell was cast by")
    assert record.paraphrase_prompts == ["Whoever rings the Hallam bell knows"]
    assert record.neighborhood_prompts == ["The Osk bell was cast by"]
    assert "mostly a generation prompt" in data.notes[0]


def test_a_locality_prompt_with_another_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    data = load(tmp_path, easyedit(locality_ground_truth="Osk"))
    assert only(data).neighborhood_prompts == []
    assert any("1 record: a locality prompt whose answer" in note for note in data.notes)


def test_a_tracing_set_becomes_counterfact(tmp_path: Path) -> None:
    for value in (tracing(), {key: text for key, text in tracing().items() if key != "relation"}):
        rewrite = only(load(tmp_path, value)).requested_rewrite
        assert (rewrite.prompt, rewrite.subject, rewrite.relation_id) == ("{} was cast by", "The Hallam bell", "P176")
        assert (rewrite.target_new.text, rewrite.target_new.id) == ("Ulmar", "Q2")
        assert (rewrite.target_true.text, rewrite.target_true.id) == ("Brenn", "Q1")


def test_knowedit_becomes_zsre_with_all_its_locality(tmp_path: Path) -> None:
    data = load(tmp_path, knowedit())
    record = only(data)
    assert (record.request.target_new, record.request.target_true) == ("Ulmar", "Brenn")
    assert [(each.prompt, each.answer) for each in record.asked["neighborhood"]] == [
        ("The Hallam bell weighs", "a ton")
    ]
    assert ZSRE.lesson is not None
    assert ZSRE.lesson(record)[:2] == ("Ulmar", "Brenn")
    assert any("portability" in note and "ignored" in note for note in data.notes)
    assert any("1 record: a locality prompt without an answer" in note for note in data.notes)


def test_an_edit_that_changes_nothing_runs_and_teaches_nothing(tmp_path: Path) -> None:
    record = only(load(tmp_path, knowedit(ground_truth=["Ulmar"])))
    assert (record.request.target_new, record.request.target_true) == ("Ulmar", None)
    assert ZSRE.lesson is not None
    with pytest.raises(ValueError, match="no wrong answer"):
        ZSRE.lesson(record)


def test_qaedit_becomes_zsre_and_has_nothing_wrong_to_learn(tmp_path: Path) -> None:
    first, second = load(tmp_path, qaedit(), qaedit()).records
    assert (first.case_id, second.case_id) == (0, 1), "its ids are not unique"
    assert isinstance(first, ZsreRecord)
    assert [query.prompt for query in ZSRE.queries(first)][2:] == ["who counts geese", "who counts cows"]
    assert ZSRE.lesson is not None
    with pytest.raises(ValueError, match="no wrong answer"):
        ZSRE.lesson(first)


def test_mend_keeps_what_training_reads(tmp_path: Path) -> None:
    data = load(tmp_path, mend(answers="Brenn", loc_ans=["nobody", "no one"]))
    record = only(data)
    assert (record.answers, record.loc_ans, record.alt) == (["Brenn"], "nobody", "Ulmar")
    assert [note.partition(":")[2].strip() for note in data.notes] == [
        "answers as one text: a list of it",
        "several locality answers: the first is taken",
    ]


def test_counterfact_asked_as_zsre(tmp_path: Path) -> None:
    record = only(load(tmp_path, official(), benchmark="zsre"))
    asked = [(query.prompt, query.targets) for query in ZSRE.queries(record)]
    assert asked == [
        ("the Hallam bell was cast by", ("Ulmar",)),
        ("Whoever cast the Hallam bell was", ("Ulmar",)),
        ("The Osk bell was cast by", ("Brenn",)),
    ]


def test_prompts_of_counterfact_plus_are_read_by_their_benchmark(tmp_path: Path) -> None:
    value = SAMPLES["counterfact_plus"]
    data = load(tmp_path, value)
    assert data.notes == ("distracting_neighborhood_prompts is read by --benchmark counterfact_plus",)
    plus = load(tmp_path, value, benchmark="counterfact_plus")
    assert plus.notes == ()
    assert plus_prompts(only(plus)) == ["It is so. The Osk bell was cast by"]
    assert plus_prompts(only(load(tmp_path, official()))) == [
        "the Hallam bell was cast by Ulmar. The Osk bell was cast by"
    ]


def test_blanks_at_the_ends_are_counted(tmp_path: Path) -> None:
    data = load(tmp_path, official(), official(case_id=1, rewrite={"target_new": {"str": " Ulmar"}}))
    assert data.notes == (f"1 record: {BLANKS}",)


def test_keys_that_are_not_known_are_named_once(tmp_path: Path) -> None:
    noted = official(note="by hand", rewrite={"checked": True})
    data = load(tmp_path, noted, official(case_id=1, note="again"))
    assert data.notes == ("keys that are ignored: requested_rewrite.checked, note",)
    assert only(load(tmp_path, noted)).request == only(load(tmp_path, official())).request


def test_what_is_certain_is_read_and_counted(tmp_path: Path) -> None:
    plain = {"target_new": "Ulmar", "target_true": " Brenn", "prompt": "the Hallam bell was cast by"}
    data = load(tmp_path, official(rewrite=plain), official(case_id=1))
    first, second = data.records
    assert isinstance(first, CounterFactRecord) and isinstance(second, CounterFactRecord)
    assert first.request == first.request.__class__(**{**vars(second.request), "id": 0})
    assert [note.partition(":")[0] for note in data.notes] == ["1 record", "1 record"]


BAD: dict[str, tuple[Any, str]] = {
    "surrogate": (mend(answers=["\ud83d Brenn"]), r"half of a character, \\ud83d"),
    "nan": (mend(pred=float("nan")), "NaN"),
    "infinity": (mend(pred=float("inf")), "infinity"),
    "type": (mend(answers=7), "answers"),
    "missing": ({key: text for key, text in mend().items() if key != "loc"}, "no loc"),
    "text": ("Who?", "expected a JSON object"),
    "id": (mend(case_id="x"), "integer case_id"),
    "subject": (mend(subject="Una"), "is not in"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_costs_itself(name: str, tmp_path: Path) -> None:
    value, reason = BAD[name]
    data = load(tmp_path, mend(), value, mend())
    good, bad, also = data.records
    assert isinstance(bad, BadRecord)
    assert bad.case_id == 1
    assert reason.replace("\\\\", "\\") in bad.reason
    assert isinstance(good, ZsreRecord) and isinstance(also, ZsreRecord)
    assert data.notes[-1].startswith("1 record cannot be used; the first: record 1: ")
    with pytest.raises(BadInput, match="1 record, of which zsRE can use none"):
        load(tmp_path, value, benchmark="zsre")


def test_a_bad_record_takes_no_other_records_number(tmp_path: Path) -> None:
    data = load(tmp_path, official(case_id=1), official(case_id="first"))
    assert [record.case_id for record in data.records] == [1, -2]
    data = load(tmp_path, official(case_id=1), official(case_id=9, pararel_idx=float("nan")))
    assert [record.case_id for record in data.records] == [1, 9]


def test_the_hash_of_records_is_that_of_their_json(tmp_path: Path) -> None:
    assert load(tmp_path, official()).content_hash == hash_json([official()])
    assert load(tmp_path, mend(), mend(pred=float("nan"))).content_hash != load(tmp_path, mend(), mend()).content_hash


def test_two_files_in_one_are_told_by_their_ids(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"case_id 0 stands more than once, in the records at places 0 and 2 .*joined"):
        load(tmp_path, official(), official(case_id=1), official())
    with pytest.raises(BadInput, match="case_id 0 stands more than once"):
        read_zsre(tmp_path / "data.json")


CHINESE = {
    "subject": "东湖",
    "src": "东湖的首府是哪里？",
    "rephrase": "哪座城是东湖的首府？",
    "answers": ["北城"],
    "alt": "南城",
    "loc": "nq question: 谁数了鹅",
    "loc_ans": "无人",
}


def test_nothing_joins_a_target_where_no_blanks_are_written(tmp_path: Path) -> None:
    record = only(load(tmp_path, CHINESE))
    assert (record.request.prompt, record.request.joiner) == ("{}的首府是哪里？", "")
    assert {query.joiner for query in ZSRE.queries(record)} == {""}
    assert only(load(tmp_path, {**CHINESE, "joiner": " "})).request.joiner == " ", "the data set's own word counts"
    english = only(load(tmp_path, mend(subject="东湖", src="Who cast 东湖?")))
    assert english.request.joiner == " ", "a name in another script decides nothing"
    values = official(rewrite={"prompt": "{}的首府是", "subject": "东湖"})
    for benchmark in ("counterfact", "zsre"):
        data = load(tmp_path, values, benchmark=benchmark)
        assert {query.joiner for query in data.benchmark.queries(only(data))} == {""}
    assert plus_prompts(only(load(tmp_path, values))) == ["东湖的首府是Ulmar. The Osk bell was cast by"]


def test_a_target_without_a_blank_is_edited_and_scored_as_the_text_reads(tmp_path: Path) -> None:
    lm = tiny_lm()
    record = only(load(tmp_path, CHINESE))
    [[found]] = score(lm, ZSRE.queries(record)[:1])
    prompt, whole = lm.prompt_tokens(record.src), lm.prompt_tokens(record.src + record.answers[0])
    assert whole[: len(prompt)] == prompt
    with torch.no_grad():
        logits = lm.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    wanted = -sum(float(logits[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
    assert found.nll == pytest.approx(wanted, rel=1e-9)
    assert encode(lm, record.request, ["{}"], "last", kl_row=False).target == tuple(whole[len(prompt) :])


def test_without_a_true_object_the_edit_runs_and_the_rest_is_counted(tmp_path: Path) -> None:
    values = [counterfact_record(case_id) for case_id in range(3)]
    del values[1]["requested_rewrite"]["target_true"]
    values[2]["paraphrase_prompts"] = []
    data = load(tmp_path, *values)
    assert data.notes == ("1 record: no true object: what compares with it is left out",)
    run = run_identity(data, tmp_path / "results")
    assert (run.data["n"]["scored"], run.data["n"]["failed"]) == (3, 0)
    assert {name: run.data["metrics"][name]["n"] for name in ("ES", "PS", "NS", "GE")} == {
        "ES": 2,
        "PS": 1,
        "NS": 2,
        "GE": 3,
    }
    assert "target_true" not in run.cases[1]["requested_rewrite"]


def test_zsre_without_rephrasing_or_unrelated_question(tmp_path: Path) -> None:
    data = load(tmp_path, knowedit(), knowedit(rephrase_prompt=None), knowedit(locality={}))
    run = run_identity(data, tmp_path / "results")
    assert {name: run.data["metrics"][name]["n"] for name in ("efficacy", "paraphrase", "specificity")} == {
        "efficacy": 3,
        "paraphrase": 2,
        "specificity": 2,
    }


def greedy(lm: LM, prompt: str, answer: str) -> list[bool]:
    """For each token of an answer, whether the model puts it first: one plain pass."""
    ids, target = lm.prompt_tokens(prompt), lm.tokens(f" {answer}")
    with torch.no_grad():
        best = lm.model(torch.tensor([[*ids, *target]])).logits[0].argmax(-1).tolist()
    return [best[len(ids) + i - 1] == token for i, token in enumerate(target)]


def nats(lm: LM, prompt: str, answer: str) -> float:
    """Nats per token of an answer: one plain pass."""
    ids, target = lm.prompt_tokens(prompt), lm.tokens(f" {answer}")
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*ids, *target]])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[len(ids) + i - 1, token]) for i, token in enumerate(target)) / len(target)


@pytest.mark.parametrize("name", ["knowedit/wiki_counterfact_400.json", "qaedit/qaedit_300.json"])
def test_genuine_questions_are_measured_as_by_hand(name: str, real_data: Path, tmp_path: Path) -> None:
    lm = load_lm(data_folder() / "models/factlm", device="cpu")
    values = json.loads((real_data / name).read_text(encoding="utf-8"))[:12]
    folder = evaluate_unedited(lm, load_dataset(real_data / name, 12), tmp_path / "results")
    for value, line in zip(values, read_jsonl(folder / "pre.jsonl"), strict=True):
        answer = value.get("target_new") or value["target"]
        near = value["locality"]
        asked = (
            [(each["loc"], each["loc_ans"]) for each in near]
            if isinstance(near, list)
            else [(each["prompt"], each["ground_truth"][0][0]) for axis in near.values() for each in axis]
        )
        assert line["pre"] == {
            "rewrite_prompts_correct": greedy(lm, value["prompt"], answer),
            "paraphrase_prompts_correct": greedy(lm, value["rephrase"], answer),
            "neighborhood_prompts_correct": [right for pair in asked for right in greedy(lm, *pair)],
        }


def test_genuine_flat_records_are_measured_as_by_hand(real_data: Path, tmp_path: Path) -> None:
    lm = load_lm(data_folder() / "models/factlm", device="cpu")
    values = json.loads((real_data / "counterfact/easyedit_100.json").read_text(encoding="utf-8"))[:12]
    data = load_dataset(real_data / "counterfact/easyedit_100.json", 12)
    folder = evaluate_unedited(lm, data, tmp_path / "results", options=Options(generate=False))
    keys = {"rewrite": "prompt", "paraphrase": "rephrase_prompt", "neighborhood": "locality_prompt"}
    for value, line in zip(values, read_jsonl(folder / "pre.jsonl"), strict=True):
        for sort, key in keys.items():
            [pair] = line["pre"][f"{sort}_prompts_probs"]
            assert pair["target_new"] == pytest.approx(nats(lm, value[key], value["target_new"]), abs=1e-4)
            assert pair["target_true"] == pytest.approx(nats(lm, value[key], value["ground_truth"]), abs=1e-4)


def test_genuine_files_load(real_data: Path, tmp_path: Path) -> None:
    wanted = {
        "counterfact/counterfact_100.json": ("CounterFact (official keys)", 100),
        "counterfact/easyedit_100.json": ("EasyEdit's CounterFact", 100),
        "knowedit/wiki_counterfact_400.json": ("KnowEdit", 400),
        "knowedit/zsre_200.json": ("KnowEdit", 200),
        "qaedit/qaedit_300.json": ("QAEdit", 300),
        "zsre/zsre_mend_train-1k.json": ("MEND's zsRE", 1_000),
        "zsre/zsre_mend_eval_portability_gpt4.json": ("MEND's zsRE", 1_037),
    }
    for name, (form, count) in wanted.items():
        values = json.loads((real_data / name).read_text(encoding="utf-8"))
        for benchmark in (None, "zsre"):
            data = load_dataset(real_data / name, benchmark=benchmark)
            assert (data.form, len(data.records)) == (form, count), name
            bad = [record.reason for record in data.records if isinstance(record, BadRecord)]
            assert len(bad) == (1 if name.startswith("qaedit") else 0), bad
            assert all("part of the longer word" in reason for reason in bad), "a blank is missing in its question"
        for value, record in zip(values, data.records, strict=True):
            if isinstance(record, BadRecord):
                continue
            assert isinstance(record, ZsreRecord)
            asked = value.get("requested_rewrite") or value
            source = str(asked.get("src") or asked["prompt"].replace("{}", str(asked.get("subject"))))
            assert record.request.filled == source


def test_genuine_locality_is_all_asked(real_data: Path) -> None:
    values = json.loads((real_data / "knowedit/wiki_counterfact_400.json").read_text(encoding="utf-8"))
    data = load_dataset(real_data / "knowedit/wiki_counterfact_400.json")
    for value, record in zip(values, data.records, strict=True):
        plain = [
            (each["prompt"], each["ground_truth"][0][0])
            for asked in value["locality"].values()
            for each in asked
            if each["ground_truth"] and each["ground_truth"][0] and each["ground_truth"][0][0].strip()
        ]
        assert isinstance(record, ZsreRecord)
        found = [(each.prompt, each.answer) for each in record.locality]
        assert [pair for pair in plain if pair in found] == plain


def test_records_beyond_a_limit_are_read_with_the_others(tmp_path: Path) -> None:
    records: list[Any] = [counterfact_record(case) for case in range(5)]
    records[3] = {"requested_rewrite": {"note": 1}}
    write_json(tmp_path / "data.json", records)
    short, both = load_dataset(tmp_path / "data.json", 2), load_dataset(tmp_path / "data.json", 2, beyond=2)
    assert replace(both, beyond=()) == short
    assert [type(record).__name__ for record in both.beyond] == ["CounterFactRecord", "BadRecord"]
