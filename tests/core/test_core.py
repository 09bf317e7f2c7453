"""core/: files that survive, records that are checked, settings that refuse, a registry that suggests."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import JsonLog, canonical_json, read_json, read_jsonl, write_atomic, write_json, write_jsonl
from counterfact.core.provenance import code_hash
from counterfact.core.records import BadRecord
from counterfact.core.registry import Registry, load_plugin
from counterfact.core.settings import Settings, resolve_settings
from counterfact.core.texts import load_texts
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT, CounterFactRecord
from counterfact.evaluation.benchmarks.zsre import ZSRE, ZsreRecord


def counterfact(case_id: int = 0, **changes: object) -> dict[str, object]:
    rewrite = {
        "prompt": "{} hails from",
        "relation_id": "P19",
        "target_new": {"str": "Bergen", "id": "Q26793"},
        "target_true": {"str": "Oslo", "id": "Q585"},
        "subject": "Ane Moe",
    }
    rewrite.update(changes)
    return {
        "case_id": case_id,
        "pararel_idx": 3,
        "requested_rewrite": rewrite,
        "paraphrase_prompts": ["Ane Moe was raised in", "Ane Moe was brought up in"],
        "neighborhood_prompts": ["Ola By hails from"],
        "attribute_prompts": ["Per Lie hails from"],
        "generation_prompts": ["Ane Moe walks to the harbour"],
    }


def zsre(**changes: object) -> dict[str, object]:
    value: dict[str, object] = {
        "subject": "Ane Moe",
        "src": "Where was Ane Moe born?",
        "rephrase": "Which town is Ane Moe from?",
        "answers": ["Bergen"],
        "loc": "nq question: who wrote it",
        "loc_ans": "Ola By",
        "pred": "Oslo",
    }
    value.update(changes)
    return value


def test_record_round_trip() -> None:
    record = COUNTERFACT.read(counterfact(), 0)
    assert isinstance(record, CounterFactRecord)
    assert record.request.filled == "Ane Moe hails from"
    assert json.loads(record.model_dump_json(exclude_none=True)) == counterfact()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": "hails from"}, "one {}"),
        ({"prompt": "{} and {} hail from"}, "one {}"),
        ({"target_new": {"str": " ", "id": None}}, "new target is empty"),
        ({"target_true": {"str": "Bergen"}}, "equals"),
        ({"subject": ""}, "subject is empty"),
        ({"subject": 7}, "subject"),
    ],
)
def test_bad_counterfact_record_is_reported(changes: dict[str, object], reason: str) -> None:
    record = COUNTERFACT.read(counterfact(4, **changes), 0)
    assert isinstance(record, BadRecord)
    assert record.case_id == 4
    assert reason in record.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": "Ola"}, "is not in 'Where"),
        ({"subject": "ne Mo"}, "part of the longer word 'Ane Moe'"),
        ({"answers": []}, "answers is empty"),
        ({"answers": [""]}, "new target is empty"),
        ({"loc_ans": ""}, "locality answer"),
        ({"answers": "Bergen"}, "answers"),
    ],
)
def test_bad_zsre_record_is_reported(changes: dict[str, object], reason: str) -> None:
    record = ZSRE.read(zsre(**changes), 9)
    assert isinstance(record, BadRecord)
    assert record.case_id == 9
    assert reason in record.reason


def test_repeated_subject_fills_its_last_whole_word_occurrence() -> None:
    record = ZSRE.read(zsre(subject="Rio", src="Is Rio in Riojana, and who named Rio?"), 0)
    assert isinstance(record, ZsreRecord)
    assert record.request.prompt == "Is Rio in Riojana, and who named {}?"
    assert record.request.filled == record.src


@given(st.text(min_size=1).filter(str.strip), st.text(), st.text())
def test_zsre_prompt_always_renders_to_the_question(subject: str, before: str, after: str) -> None:
    src = f"{before} {subject} {after}"
    record = ZSRE.read(zsre(subject=subject, src=src), 0)
    if isinstance(record, ZsreRecord):
        assert record.request.filled == src


def test_dataset_from_every_form(tmp_path: Path) -> None:
    values = [counterfact(i) for i in range(3)]
    write_json(tmp_path / "counterfact.json", values)
    write_jsonl(tmp_path / "built" / "records.jsonl", values)
    write_json(tmp_path / "built" / "build.json", {"name": "mine", "version": "1.0"})
    write_jsonl(
        tmp_path / "built" / "reference_texts.jsonl",
        [{"relation_id": "P19", "target_id": "Q26793", "samples": [{"name": "Per Lie", "text": "Rain."}]}],
    )
    file, folder = load_dataset(tmp_path / "counterfact.json"), load_dataset(tmp_path / "built")
    assert file.content_hash == folder.content_hash
    assert folder.label == "mine@1.0"
    assert folder.reference_texts is not None
    assert folder.reference_texts.get("P19", "Q26793")[0].text == "Rain."
    assert len(load_dataset(tmp_path / "built", limit=2).records) == 2


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head><title>404 Gone</title>", "'404 Gone'.* is a web page, saved in place"),
        (b"\n<HTML><body>busy", "is a web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04", "zip archive"),
        (b"PAR1\x15", "Parquet"),
        ("[]".encode("utf-16"), "UTF-16"),
        (b" \n", "is empty|holds no records"),
    ],
)
def test_what_a_file_really_is_is_said(content: bytes, said: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"records{ending}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        load_dataset(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1}]\n[{"a": 2}]', ":2: a second JSON array.*file of its own"),
        ('{"a": 1}\n{"a": 2}', ":2: a second JSON object.*name the file .jsonl"),
        ('[{"a": 1}, {"a', ":1: .*ends in the middle of a value"),
        ('[{"a": 1},', ":1: .*ends in the middle of a value"),
        ('[{"a": 1}} ]', ":1: not JSON: Expecting"),
    ],
)
def test_malformed_json_says_how(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        load_dataset(tmp_path / "records.json")


def test_a_file_named_for_the_other_form(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps([counterfact(0), counterfact(1)]))
    assert len(load_dataset(tmp_path / "list.jsonl").records) == 2
    (tmp_path / "list.jsonl").write_text(json.dumps([counterfact(0)], indent=1))
    with pytest.raises(BadInput, match=r":1: not JSON: .*name it \.json"):
        load_dataset(tmp_path / "list.jsonl")
    (tmp_path / "error.json").write_text('{"message": "Not Found", "status": 404}')
    with pytest.raises(BadInput, match="expected a JSON list of records, got dict with the keys message, status"):
        load_dataset(tmp_path / "error.json")


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_byte_order_mark_is_read(ending: str, tmp_path: Path) -> None:
    text = json.dumps(counterfact()) + "\n"
    path = tmp_path / f"records{ending}"
    path.write_text(f"[{text}]" if ending == ".json" else text, encoding="utf-8-sig")
    assert [record.case_id for record in load_dataset(path).records] == [0]


def test_broken_data_set_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(counterfact()) + "\n{oops\n")
    with pytest.raises(BadInput, match=re.escape(f"{path}:2: not JSON")):
        load_dataset(path)


def test_duplicate_case_ids_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", [counterfact(5), counterfact(5)])
    with pytest.raises(BadInput, match="case_id 5 stands more than once"):
        load_dataset(tmp_path / "r.jsonl")


@pytest.mark.parametrize("source", ["./nothing", "nothing", "/no/where.json"])
def test_a_missing_data_set_is_said(source: str) -> None:
    with pytest.raises(BadInput, match="no "):
        load_dataset(source)


def test_official_records_load(real_data: Path) -> None:
    dataset = load_dataset(real_data / "counterfact" / "counterfact_100.json")
    assert len(dataset.records) == 100
    assert not any(isinstance(record, BadRecord) for record in dataset.records)
    zsre_set = load_dataset(real_data / "zsre" / "zsre_mend_eval_portability_gpt4.json")
    bad = [record for record in zsre_set.records if isinstance(record, BadRecord)]
    assert len(zsre_set.records) == 1037
    assert len(bad) <= 1, bad


@given(st.binary(max_size=40))
def test_json_log_mends_a_torn_tail(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    JsonLog(path).append([{"a": 1}, {"a": 2}])
    with path.open("ab") as file:
        file.write(tail.replace(b"\n", b""))
    log = JsonLog(path)
    log.append([{"a": 3}])
    assert [value["a"] for value in log.read()] == [1, 2, 3]


def test_atomic_write_leaves_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.json"
    write_json(path, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "2")
    assert read_json(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_no_nan_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([float("inf")])


def test_not_utf8_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(BadInput, match="UTF-8"):
        list(read_jsonl(path))


class Knobs(Settings):
    """Two knobs."""

    layer: int
    rate: float = 0.5

    @classmethod
    def scaled(cls, n_layers: int) -> dict[str, int]:
        return {"layer": n_layers // 2}


def test_settings_come_from_file_or_depth_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "gpt2-xl.yaml").write_text("source: paper, table 9\nlayer: 17\n")
    named = resolve_settings(Knobs, tmp_path, "openai/GPT2-XL", 48, ["rate=0.1"])
    assert (named.settings.layer, named.settings.rate, named.source) == (17, 0.1, "paper, table 9")
    assert named.given == {"rate": 0.1}
    (tmp_path / "gpt2.yaml").write_text("source: paper, table 8\nlayer: 6\nrate: 5e-3\n")
    for said, rate in (
        ([], 5e-3),
        (["rate=1e-4"], 1e-4),
        (["rate=+2.5E-1"], 0.25),
        (["rate=.5e+1"], 5.0),
        (["rate=3"], 3.0),
    ):
        assert resolve_settings(Knobs, tmp_path, "gpt2", 12, said).settings.rate == rate
    scaled = resolve_settings(Knobs, tmp_path, "other", 12)
    assert scaled.settings.layer == 6
    assert scaled.source == "no settings file for other: defaults, scaled to 12 layers (layer=6)"


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("source: x\nlayr: 1\n", [], "layr"),
        ("source: x\nlayer: 1\nrate: '5e-1'\n", [], "rate"),
        ("layer: 1\n", [], "source"),
        ("source: x\nlayer: 1\n", ["layer"], "name=value"),
        ("source: x\nlayer: 1\n", ["layer=one"], "layer"),
        ("- 1\n", [], "mapping"),
        ("a: [", [], "not YAML"),
    ],
)
def test_settings_refuse(tmp_path: Path, text: str, overrides: list[str], said: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)):
        resolve_settings(Knobs, tmp_path, "m", 4, overrides)


def test_registry_suggests_and_refuses_twice() -> None:
    registry: Registry[int] = Registry("number", "core")
    registry.add("rome", 1)
    with pytest.raises(BadInput, match=r"Did you mean 'rome'\? Known: rome"):
        registry.get("rom")
    with pytest.raises(ValueError, match="two numbers"):
        registry.add("rome", 2)


def test_plugin_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    load_plugin(path)
    assert path.with_suffix(".ran").exists()
    with pytest.raises(BadInput, match="no Python file"):
        load_plugin(tmp_path / "none.py")


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "b.jsonl").write_text('{"text": "Three."}\n')
    source = load_texts(tmp_path)
    assert list(source.texts()) == list(source.texts()) == ["One.", "Two.", "Three."]
    with pytest.raises(BadInput, match="no texts"):
        load_texts("./nothing")


def test_the_one_writer_sweeps_up_what_a_killed_one_left(tmp_path: Path) -> None:
    from counterfact.core.files import one_writer

    for name in (".run.json.a1b2_3d4", ".cases.jsonl.zzzzzzzz"):
        (tmp_path / name).write_text("half")
    for name in (".gitignore", "run.json", ".a.short"):
        (tmp_path / name).write_text("whole")
    with one_writer(tmp_path, wait=False):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".a.short", ".gitignore", "run.json"]


def test_a_hash_of_code_changes_with_any_module_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "some_code" / "room"
    room.mkdir(parents=True)
    for path in (room.parent / "__init__.py", room / "__init__.py", room / "work.py"):
        path.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = [code_hash("some_code")]
    for change in ("x = 1", "x = 2"):
        code_hash.cache_clear()
        (room / "work.py").write_text(change)
        found.append(code_hash("some_code"))
    code_hash.cache_clear()
    (room / "work.py").rename(room / "other.py")
    found.append(code_hash("some_code"))
    (room / "notes.txt").write_text("no code")
    code_hash.cache_clear()
    assert len(set(found)) == 4 and code_hash("some_code") == found[-1]
    assert code_hash("some_code") != code_hash("some_code", "counterfact.core")
    with pytest.raises(ModuleNotFoundError):
        code_hash("no_such_code")
