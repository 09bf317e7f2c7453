"""The staged repository: what `datasets` and the Croissant validator read from it, and cards that people edit."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfact.builders.audit.recovery import measure_recovery, write_recovery
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.hub.card import merge_card
from counterfact.builders.hub.card_header import merge_header, split_card
from counterfact.builders.hub.deviations import deviations
from counterfact.builders.hub.parquet import features_of, write_table
from counterfact.builders.hub.parts import Part, read_parts
from counterfact.builders.hub.staging import Staged, semantic, stage
from counterfact.builders.zsre import build as build_zsre
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, read_jsonl, write_json, write_jsonl
from tests.support.evaluating import counterfact, zsre

DAY = "2026-11-23"


def built(folder: Path, n: int = 6) -> Path:
    counterfact(folder, n, bad=())
    meta = {"name": "ours", "version": "1", "kind": "counterfact", **PAPER_BUILD, "environment": {"x": 1}}
    write_json(folder / "build.json", meta)
    return folder


def questions(folder: Path, n: int = 3) -> Path:
    zsre(folder / "zsre.json", n)
    build_zsre(folder / "zsre", folder / "zsre.json", name="questions")
    return folder / "zsre"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    folder = tmp_path_factory.mktemp("parts")
    more = built(folder / "more", 7)
    return read_parts([str(built(folder / "data")), str(questions(folder)), f"more/dev={more}"])


@pytest.fixture(scope="module")
def staged(parts: list[Part], tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(parts, "org/name", "1", tmp_path_factory.mktemp("stage") / "out", DAY)


def test_each_configuration_has_its_files(staged: Staged) -> None:
    shard = "00000-of-00001.parquet"
    assert staged.data == (
        "builds/counterfact-test.json",
        "builds/more-dev.json",
        "builds/zsre-test.json",
        f"counterfact/test-{shard}",
        f"more/dev-{shard}",
        f"more_reference_texts/dev-{shard}",
        f"reference_texts/test-{shard}",
        f"zsre/test-{shard}",
    )


def test_the_folder_reads_as_the_build_does(staged: Staged, parts: list[Part], tmp_path: Path) -> None:
    ours = load_dataset(built(tmp_path))
    there = load_dataset(staged.folder)
    assert (there.label, there.records, there.content_hash) == (ours.label, ours.records, ours.content_hash)
    assert there.reference_texts is not None and ours.reference_texts is not None
    assert list(there.reference_texts.documents()) == list(ours.reference_texts.documents())
    assert load_dataset(f"{staged.folder}:zsre").content_hash == parts[2].content_hash
    assert len(load_dataset(f"{staged.folder}:more").records) == 7
    with pytest.raises(BadInput, match="no data set of that name"):
        load_dataset(f"{staged.folder}:nothing")


def test_the_card_names_every_deviation_in_one_table(staged: Staged) -> None:
    text = (staged.folder / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith("| `counterfact`/`test`, `more`/`dev` |")]
    assert "; preset `paper`; " in text
    whom = "of the 20 with the lowest Q-ids, as the released data have it"
    assert sum(whom in row for row in rows) == 1, "what two builds share is said once"
    assert [row.split(" | ")[0] for row in rows] == [f"| {one.what}" for one in deviations(PAPER_BUILD)]


PAPER_BUILD = {"settings": BuildSettings().model_dump()}


def test_each_choice_that_is_not_the_papers_is_a_deviation() -> None:
    def told(**given: object) -> set[str]:
        build = {"settings": BuildSettings.check(given, "test").model_dump()}
        return {one.what for one in deviations(build)}

    paper, strict = told(), told(preset="strict")
    assert "subjects with several objects" in strict - paper
    assert "new objects that imply a true one or follow from it" in paper - strict
    assert told(neighborhood_prompts=5) - paper == {"neighborhood prompts in a record"}
    assert told(fewest_sitelinks=3) - paper == {"fewest sitelinks of a subject"}
    assert deviations({"name": "questions"}) == []


def test_the_card_states_recovery_where_it_was_measured_of_these_records(tmp_path: Path) -> None:
    folder = built(tmp_path / "data")
    write_recovery(folder, measure_recovery(str(folder), str(folder)))
    card = (stage(read_parts([str(folder)]), "org/name", "1", tmp_path / "a", DAY).folder / "README.md").read_text()
    assert "has 6 of the 6 facts of ours@1, 100.0%" in card
    write_jsonl(folder / "records.jsonl", list(read_jsonl(folder / "records.jsonl"))[1:])
    card = (stage(read_parts([str(folder)]), "org/name", "1", tmp_path / "b", DAY).folder / "README.md").read_text()
    assert "Not measured" in card


def test_the_datasheet_is_that_of_the_croissant_metadata(staged: Staged) -> None:
    metadata = read_json(staged.folder / "croissant.json")
    fields = {key: value for key, value in metadata.items() if key.startswith("rai:")}
    assert len(fields) == 12 and all(fields.values())
    text = (staged.folder / "README.md").read_text(encoding="utf-8")
    assert text.count(fields["rai:dataBiases"]) == text.count("| data biases |") == 1


def test_the_header_is_true(staged: Staged, parts: list[Part]) -> None:
    header = yaml.safe_load(split_card((staged.folder / "README.md").read_text())[0])
    names = list(dict.fromkeys(part.config for part in parts))
    assert [entry["config_name"] for entry in header["configs"]] == names
    assert [entry["config_name"] for entry in header["configs"] if entry.get("default")] == ["counterfact"]
    infos = {info["config_name"]: info for info in header["dataset_info"]}
    assert set(infos) == set(names)
    for config in header["configs"]:
        info = infos[config["config_name"]]
        [file] = config["data_files"]
        assert info["download_size"] == (staged.folder / file["path"]).stat().st_size
        [split] = info["splits"]
        [part] = [part for part in parts if part.config == config["config_name"]]
        assert (split["name"], split["num_examples"]) == (file["split"], len(part.rows)) == (part.split, len(part.rows))
    assert header["license"] == sorted({part.licence for part in parts})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlcroissant 1.1 calls what rdflib and pandas deprecate
def test_the_public_validator_accepts_the_croissant_metadata(staged: Staged, parts: list[Part]) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs the public validator: pip install mlcroissant")
    value = read_json(staged.folder / "croissant.json")
    files = {entry["@id"]: str(staged.folder / entry["@id"]) for entry in value["distribution"]}
    data = mlcroissant.Dataset(jsonld=staged.folder / "croissant.json", mapping=files)
    issues = data.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    for part in parts:
        name = f"{part.config}/{part.split}"
        [*records] = data.records(name)
        assert len(records) == len(part.rows)
    first = parts[0].rows[0]
    record = next(iter(data.records("counterfact/test")))
    assert (
        record["counterfact/test/requested_rewrite"]["counterfact/test/requested_rewrite/subject"].decode()
        == (first["requested_rewrite"]["subject"])
    )


def test_a_changed_file_no_longer_fits_the_metadata(staged: Staged) -> None:
    from counterfact.core.files import hash_file

    value = read_json(staged.folder / "croissant.json")
    for entry in value["distribution"]:
        assert entry["sha256"] == hash_file(staged.folder / entry["@id"])
        assert entry["contentUrl"] == f"https://huggingface.co/datasets/org/name/resolve/v1.0.0/{entry['@id']}"
    assert value["conformsTo"][0].endswith("/1.1")
    assert value["prov:wasDerivedFrom"]


def test_equal_builds_stage_the_same_bytes(staged: Staged, parts: list[Part], tmp_path: Path) -> None:
    again = stage(parts, "org/name", "1.0", tmp_path / "out", DAY)
    for path in staged.files:
        assert (again.folder / path).read_bytes() == (staged.folder / path).read_bytes(), path
    assert stage(parts, "org/name", "1", tmp_path / "out", DAY).files == staged.files


def test_a_folder_of_something_else_is_not_replaced(parts: list[Part], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="choose another place"):
        stage(parts, "org/name", "1", tmp_path, DAY)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("version", ["", "one", "1.2.3.4", "1..2", "1.-1", "²"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(BadInput, match="expected a version"):
        semantic(version)


def change(folder: Path, name: str, **values: Any) -> None:
    write_json(folder / name, {**read_json(folder / name), **values})


def test_folders_that_cannot_be_published(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to publish"):
        read_parts([])
    with pytest.raises(BadInput, match="no folder that a build wrote"):
        read_parts([str(tmp_path)])
    folder = built(tmp_path / "data")
    with pytest.raises(BadInput, match="counterfact/test is given more than once"):
        read_parts([str(folder), str(folder)])
    with pytest.raises(BadInput, match="cannot be called reference_texts"):
        read_parts([f"reference_texts={folder}"])
    change(folder, "build.json", content_hash="0" * 64)
    with pytest.raises(BadInput, match="changed since it was built"):
        read_parts([str(folder)])
    for secret in ("hf_abcdefghijklmnop1234", "https://me:word@example.org/sparql"):
        change(built(folder), "build.json", sources={"facts": {"url": secret}})
        with pytest.raises(BadInput, match="looks like a token") as caught:
            read_parts([str(folder)])
        assert secret not in str(caught.value)
    counterfact(folder, 6, bad=(2,))
    with pytest.raises(BadInput, match="1 records cannot be used, the first: 2"):
        read_parts([str(folder)])


def test_texts_of_wikipedia_are_apart_and_named(tmp_path: Path) -> None:
    folder = built(tmp_path)
    sources = {"articles": {"kind": "mediawiki", "contexts": {"kind": "files", "files": {}}}}
    change(folder, "build.json", sources=sources, settings={"paraphrase_context": "articles"})
    records, texts = read_parts([str(folder)])
    assert (records.config, records.licence) == ("counterfact", "unknown")
    assert "from articles as their source says; without it CC0" in records.licence_note
    assert (texts.config, texts.licence) == ("reference_texts", "cc-by-sa-4.0")


def test_sentences_of_wikipedia_in_a_record_make_it_share_alike(tmp_path: Path) -> None:
    folder = built(tmp_path)
    sources = {"articles": {"kind": "mediawiki"}}
    change(folder, "build.json", sources=sources, settings={"paraphrase_context": "articles"})
    assert read_parts([str(folder)])[0].licence == "cc-by-sa-4.0"
    change(folder, "build.json", sources=sources, settings={"paraphrase_context": "none"})
    assert read_parts([str(folder)])[0].licence == "cc0-1.0"


def test_a_build_in_another_language_is_named_so(tmp_path: Path) -> None:
    folder = built(tmp_path)
    change(folder, "build.json", settings={"language": "de"})
    german, texts = read_parts([f"german={folder}"])
    assert (german.config, texts.config) == ("german", "german_reference_texts")
    staged = stage([german, texts], "org/name", "1", tmp_path / "staged", DAY)
    assert yaml.safe_load(split_card((staged.folder / "README.md").read_text())[0])["language"] == ["de"]
    assert read_json(staged.folder / "croissant.json")["inLanguage"] == ["de"]


def test_rows_that_would_not_come_back_are_refused(tmp_path: Path) -> None:
    ragged: list[dict[str, Any]] = [{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "x", "d": "y"}}]
    with pytest.raises(BadInput, match=r"row 0 would not come back.*in b"):
        write_table(tmp_path / "t.parquet", ragged, features_of(ragged))
    with pytest.raises(BadInput, match="different types"):
        features_of([{"a": 1}, {"a": "x"}])


values = st.fixed_dictionaries(
    {
        "case_id": st.integers(-(2**62), 2**62),
        "pararel_idx": st.none() | st.integers(0, 9),
        "rewrite": st.fixed_dictionaries({"str": st.text(), "id": st.none() | st.text()}),
        "prompts": st.lists(st.text(), max_size=3),
        "samples": st.lists(st.fixed_dictionaries({"name": st.text(), "text": st.text()}), max_size=2),
    }
)


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(values, min_size=1, max_size=5))
def test_nested_rows_come_back_as_they_are(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_table(tmp_path_factory.mktemp("rows") / "t.parquet", rows, features_of(rows))


def fresh(staged: Staged) -> str:
    return (staged.folder / "README.md").read_text()


def test_a_card_merged_with_itself_is_itself(staged: Staged) -> None:
    assert merge_card(fresh(staged), fresh(staged)) == (fresh(staged), ())


def test_edits_of_people_stay_and_figures_follow(staged: Staged) -> None:
    ours = fresh(staged)
    newer = ours.replace("16 requests", "17 requests")
    theirs = ours.replace("## Use", "## Mine\n\ntext\n\n## Use").replace(
        "pretty_name: ours", "pretty_name: Theirs # really"
    )
    merged = merge_card(theirs.replace("@inproceedings", "@article"), _marked(newer))
    assert "## Mine\n\ntext" in merged.text
    assert "pretty_name: Theirs # really" in merged.text
    assert "17 requests" in merged.text
    assert "@article" in merged.text
    assert merged.kept == ("pretty_name", "citation")


def _marked(card: str) -> str:
    """Give blocks whose content was replaced the marks they would have been generated with."""
    from counterfact.builders.hub import card as hub_card

    return hub_card._BLOCK.sub(lambda found: hub_card._block(found[1], found[3]), card)


def test_a_block_that_was_removed_stays_removed_and_a_foreign_card_is_kept(staged: Staged) -> None:
    ours = fresh(staged)
    start, end = ours.index("<!-- generated: sample"), ours.index("<!-- end -->", ours.index("<!-- generated: sample"))
    removed = ours[:start] + ours[end + len("<!-- end -->") :]
    assert merge_card(removed, ours) == (removed, ())
    foreign = merge_card("---\nlicense: mit # theirs\n---\n# Theirs\n", ours)
    assert foreign.text.startswith("---\nlicense: mit # theirs\npretty_name:")
    assert foreign.text.index("# Theirs") < foreign.text.index("# ours")
    assert foreign.kept == ("license",)
    assert merge_card(foreign.text, ours) == foreign
    assert merge_card("", ours).text == ours


def test_configurations_of_others_stay_in_the_header() -> None:
    theirs = "configs:\n- config_name: other\n  default: true\n  data_files: x\n# a comment\nlicense: mit\n"
    ours = "configs:\n- config_name: mine\n  default: true\n  data_files: y\n"
    text, kept = merge_header(theirs, ours)
    assert kept == []
    assert "# a comment\nlicense: mit\n" in text
    assert yaml.safe_load(text)["configs"] == [
        {"config_name": "mine", "data_files": "y"},
        {"config_name": "other", "default": True, "data_files": "x"},
    ]
    assert merge_header(text, ours) == (text, [])


@pytest.mark.parametrize("header", ["a: [", "- a\n- b\n"])
def test_a_header_that_is_broken_is_said(header: str) -> None:
    with pytest.raises(BadInput, match="mend it there first"):
        merge_header(header, "a: 1\n")


def test_rows_of_the_staged_files_are_those_of_the_build(staged: Staged, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(staged.folder / "counterfact/test-00000-of-00001.parquet").to_pylist()
    assert rows == list(read_jsonl(built(tmp_path) / "records.jsonl"))
    assert json.loads(json.dumps(rows)) == rows


def test_a_record_changed_after_the_build_is_seen(tmp_path: Path) -> None:
    folder = questions(tmp_path)
    rows = list(read_jsonl(folder / "records.jsonl"))
    write_jsonl(folder / "records.jsonl", [{**rows[0], "loc_ans": "Bergen"}, *rows[1:]])
    with pytest.raises(BadInput, match="changed since it was built"):
        read_parts([str(folder)])
