"""zsRE from MEND's files: what is kept, what is counted, and that `size` is honoured."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfact.builders.zsre import build, read_zsre
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.evaluation.benchmarks.zsre import ZSRE, ZsreRecord


def entry(**changed: Any) -> dict[str, Any]:
    return {
        "subject": "Lake Orim",
        "src": "Which river leaves Lake Orim?",
        "pred": "Anna",
        "rephrase": "What river flows out of Lake Orim?",
        "alt": "Bela",
        "answers": ["the Tessel", "Tessel"],
        "loc": "nq question: who counted the geese",
        "loc_ans": "nobody",
        "cond": "Anna >> Bela || Which river leaves Lake Orim?",
    } | changed


def write(folder: Path, entries: list[Any], name: str = "zsre_mend_eval.json") -> Path:
    path = folder / name
    text = json.dumps(entries) if name.endswith(".json") else "".join(json.dumps(value) + "\n" for value in entries)
    path.write_text(text, encoding="utf-8")
    return path


def records_of(out: Path) -> list[ZsreRecord]:
    return [record for record in load_dataset(out).records if isinstance(record, ZsreRecord)]


def test_a_file_becomes_a_folder_that_loads(tmp_path: Path) -> None:
    unicode = entry(subject="Łódź", src="Gdzie leży Łódź?", answers=["Polska – Łódzkie", "Polska"])
    report = build(tmp_path / "out", write(tmp_path, [entry(), unicode]))
    dataset = load_dataset(tmp_path / "out")
    assert (dataset.name, dataset.version[:2], dataset.kind) == ("zsre", "1+", "zsre")
    assert dataset.content_hash == report.meta["content_hash"]
    first, second = records_of(tmp_path / "out")
    assert first.answers == ["the Tessel", "Tessel"]
    assert first.request.prompt == "Which river leaves {}?"
    assert first.request.target_new == "the Tessel"
    assert (second.subject, second.answers[0]) == ("Łódź", "Polska – Łódzkie")
    assert first.loc == "nq question: who counted the geese"


def test_a_subject_that_is_repeated_is_edited_at_its_last_place(tmp_path: Path) -> None:
    repeated = entry(subject="Orim", src="Is Orim the Orim of Orimland or Orim?")
    build(tmp_path / "out", write(tmp_path, [repeated]))
    (record,) = records_of(tmp_path / "out")
    assert record.request.prompt == "Is Orim the Orim of Orimland or {}?"
    assert record.request.filled == record.src


def test_answers_of_every_form(tmp_path: Path) -> None:
    entries = [entry(answers="Tessel"), entry(answers=["", "Tessel"]), entry(loc_ans=["nobody", "no one"])]
    build(tmp_path / "out", write(tmp_path, entries))
    assert [record.answers[0] for record in records_of(tmp_path / "out")] == ["Tessel", "Tessel", "the Tessel"]
    assert records_of(tmp_path / "out")[2].loc_ans == "nobody"


BAD = [
    entry(answers=[]),
    entry(answers=[" "]),
    entry(answers=7),
    entry(subject="Lake Tor"),
    entry(subject=" "),
    entry(loc_ans=[]),
    entry(loc_ans="  "),
    {key: value for key, value in entry().items() if key != "rephrase"},
    "not an object",
    None,
]


def test_bad_entries_are_counted_and_keep_the_others_ids(tmp_path: Path) -> None:
    report = build(tmp_path / "out", write(tmp_path, [*BAD, entry()]))
    assert [record.case_id for record in records_of(tmp_path / "out")] == [len(BAD)]
    counts = report.meta["counts"]
    assert counts["read"] == len(BAD) + 1 == counts["records"] + sum(counts["dropped"].values())
    assert counts["dropped"]["the subject … is not in …"] == 1
    assert counts["dropped"]["the subject is empty"] == 1


@given(size=st.integers(1, 12), usable=st.lists(st.booleans(), min_size=1, max_size=10))
def test_size_is_honoured(size: int, usable: list[bool], tmp_path_factory: pytest.TempPathFactory) -> None:
    entries = [
        entry(subject=f"Lake {n}", src=f"Who saw Lake {n}?") if good else entry(answers=[])
        for n, good in enumerate(usable)
    ]
    if not any(usable):
        with pytest.raises(BadInput, match="can use none"):
            read_zsre(write(tmp_path_factory.mktemp("zsre"), entries), size)
        return
    records, dropped, *_ = read_zsre(write(tmp_path_factory.mktemp("zsre"), entries), size)
    wanted = [n for n, good in enumerate(usable) if good][:size]
    assert [record["case_id"] for record in records] == wanted
    assert dropped.total() == (wanted[-1] + 1 if len(wanted) == size else len(usable)) - len(wanted)


def test_lines_are_read_as_well(tmp_path: Path) -> None:
    build(tmp_path / "out", write(tmp_path, [entry(), entry()], "zsre.jsonl"), limit=1)
    assert len(records_of(tmp_path / "out")) == 1


def test_equal_builds_are_equal_bytes(tmp_path: Path) -> None:
    source = write(tmp_path, [entry(), entry(answers=[])])
    build(tmp_path / "a", source)
    build(tmp_path / "b", source)
    assert (tmp_path / "a/records.jsonl").read_bytes() == (tmp_path / "b/records.jsonl").read_bytes()
    assert build(tmp_path / "a", source).reused
    assert not build(tmp_path / "a", source, limit=1).reused


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not JSON"), ('{"a": 1}', "expected a JSON list"), ("[]", "no entry can be used")]
)
def test_other_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "zsre.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        build(tmp_path / "out", tmp_path / "zsre.json")


def test_a_missing_file_and_a_size_of_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file"):
        build(tmp_path / "out", tmp_path / "zsre.json")
    with pytest.raises(BadInput, match="limit"):
        build(tmp_path / "out", write(tmp_path, [entry()]), limit=0)


def test_no_text_is_changed(tmp_path: Path) -> None:
    [kept] = read_zsre(write(tmp_path, [entry(answers=["Ａ — ﬁn\u00a0"], loc_ans="ça")])).records
    assert (kept["answers"], kept["loc_ans"]) == (["Ａ — ﬁn\u00a0"], "ça")


def test_a_built_folder_teaches_what_its_file_teaches(tmp_path: Path) -> None:
    source = write(tmp_path, [entry(), entry(alt="Carla")])
    build(tmp_path / "out", source)
    raw, built = load_dataset(source), load_dataset(tmp_path / "out")
    assert built.records == raw.records
    lessons = [ZSRE.lesson(record) for record in records_of(tmp_path / "out")] if ZSRE.lesson else []
    assert [(lesson.target, lesson.true) for lesson in lessons] == [("Bela", "the Tessel"), ("Carla", "the Tessel")]


def test_a_file_of_another_form_is_read_and_named(tmp_path: Path) -> None:
    value = {"id": 4, "source": "TQA", "prompt": "Who dug Lake Orim?", "target": "Ove", "subject": "Lake Orim"}
    asked = [{"loc": "who counts geese", "loc_ans": "nobody"}, {"loc": "who counts cows", "loc_ans": "Una"}]
    report = build(
        tmp_path / "out", write(tmp_path, [{**value, "rephrase": "Lake Orim was dug by?", "locality": asked}])
    )
    assert report.meta["sources"]["zsre"]["form"] == "QAEdit"
    [record] = records_of(tmp_path / "out")
    assert [question.prompt for question in record.locality] == ["who counts geese", "who counts cows"]
    assert json.loads((tmp_path / "out/stats.json").read_text())["locality_questions"] == 2


def test_real_files(real_data: Path, tmp_path: Path) -> None:
    evaluation = build(tmp_path / "eval", real_data / "zsre/zsre_mend_eval_portability_gpt4.json")
    training = build(tmp_path / "train", real_data / "zsre/zsre_mend_train-1k.json", limit=500)
    assert (evaluation.records, evaluation.meta["counts"]["dropped"]) == (1_037, {})
    assert training.records == 500
    assert all(record.request.filled == record.src for record in records_of(tmp_path / "eval"))
