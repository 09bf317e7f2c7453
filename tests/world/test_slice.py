"""The rule that cuts the embedded slice: what may enter it, what may be edited, and that it always cuts the same."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pyoxigraph
import pytest

from counterfact.core.errors import BadInput
from tests.support import ROOT
from world.labels import LABELS
from world.rules import RELATIONS, is_sound_object, is_sound_subject, may_be_edited
from world.slice import Cutter
from world.table import HEADER, Fact, Row, Table, is_clean, read_rows
from world.writing import Slice, count, ntriples, table_of, write_slice

POSITIONS = {"Q1": "goalkeeper", "Q2": "defender", "Q3": "winger"}
NAMES = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jo")


def player(number: int, position: str, label: str | None = None, source: str = "lama") -> Row:
    """Return the fact that a made-up person plays in a position."""
    name = label or f"{NAMES[number % 10]} {NAMES[number // 10 % 10]}son{'a' * (number // 100)}"
    return Row(f"Q{number}", name, "P413", position, POSITIONS[position], source)


def small_table() -> list[Row]:
    """Seven goalkeepers, six defenders and two wingers, all sound; then people who are not."""
    rows = [player(100 + n, "Q1") for n in range(7)] + [player(110 + n, "Q2") for n in range(6)]
    rows += [player(120 + n, "Q3") for n in range(2)]
    rows += [player(130, "Q1", "Two Places"), player(130, "Q2", "Two Places")]
    rows += [player(131, "Q1", "The Goalkeeper Man"), player(132, "Q1", "Brace {Man}"), player(133, "Q1", "Q133")]
    rows += [player(134, "Q1", "Same Name"), player(135, "Q2", "Same Name"), player(136, "Q1", "Иван Петров")]
    return rows


def cut(rows: list[Row]) -> Slice:
    return Cutter(Table(rows)).run()


def subjects(facts: list[Fact]) -> set[str]:
    return {fact.subject for fact in facts}


def test_records_have_one_object_in_the_whole_table() -> None:
    records = cut(small_table()).records["P413"]
    assert {fact.object for fact in records} == {"Q1", "Q2"}
    assert "Q130" not in subjects(records)
    assert len(records) == len(subjects(records))


def test_an_object_with_too_few_subjects_is_not_chosen() -> None:
    assert ("P413", "Q3") not in Cutter(Table(small_table())).quota


@pytest.mark.parametrize("subject", ["Q131", "Q132", "Q133", "Q135", "Q136"])
def test_odd_labels_are_kept_out(subject: str) -> None:
    assert subject not in subjects(cut(small_table()).facts)


def test_of_two_with_one_label_the_more_famous_stays() -> None:
    rows = [*small_table(), Row("Q135", "Same Name", "P54", "Q9", "A Club", "lama")]
    table = Table(rows)
    assert is_sound_subject(table, "Q135") and not is_sound_subject(table, "Q134")


def test_the_same_rows_in_any_order_give_the_same_slice() -> None:
    rows = small_table()
    first = cut(rows)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert cut(rows) == first


def test_a_subject_comes_with_all_its_facts() -> None:
    extra = Row("Q100", "Ada Adasona", "P1303", "Q4", "violin", "lama")
    assert Fact("Q100", "P1303", "Q4") in cut([*small_table(), extra]).facts


def test_a_person_with_an_unsound_fact_is_left_out_and_a_place_loses_the_relation() -> None:
    person = Row("Q100", "Ada Adasona", "P39", "Q5", "MD", "lama")
    assert "Q100" not in subjects(cut([*small_table(), person]).facts)
    rows = [Row("Q20", "Utopia", "P30", "Q21", "Atlantis", "lama"), Row("Q20", "Utopia", "P463", "Q22", "NN", "lama")]
    assert Cutter(Table(rows)).known["Q20"] == [Fact("Q20", "P30", "Q21")]


def test_facts_of_codex_come_first() -> None:
    rows = [player(200 + n, "Q1", source="lama") for n in range(99)]
    rows += [player(300 + n, "Q1", source="codex") for n in range(50)]
    assert {f"Q{300 + n}" for n in range(50)} <= subjects(cut(rows).records["P413"])


def test_no_religion_of_the_living_is_edited() -> None:
    faith, born = ("P140", "Q40", "Hinduism", "lama"), ("P19", "Q41", "Arcadia", "lama")
    died = ("P20", "Q41", "Arcadia", "lama")
    living = [Row("Q50", "Ann Living", *fact) for fact in (faith, born)]
    dead = [Row("Q51", "Bob Dead", *fact) for fact in (faith, born, died)]
    table = Table(living + dead)
    assert not may_be_edited(table, "Q50", "P140") and may_be_edited(table, "Q51", "P140")
    assert may_be_edited(table, "Q50", "P19")


def test_labels_of_ours_replace_those_of_the_table() -> None:
    table = Table([Row("Q60", "Some Fellow", "P463", "Q123885", "FRS", "lama")])
    assert table.label["Q123885"] == "Royal Society"
    assert is_sound_object(table, "P463", "Q123885")


def test_labels_of_ours_are_of_one_entity_each() -> None:
    assert len(set(LABELS.values())) == len(LABELS)


@pytest.mark.parametrize(
    ("label", "clean"),
    [
        ("Saint-Étienne", True),
        ("A&M Records", True),
        ("Q42", False),
        ('The "Boss"', False),
        ("Bern ", False),
        ("Two\nlines", False),
        ("one two three four five six", False),
        ("1984", False),
    ],
)
def test_clean_labels(label: str, clean: bool) -> None:
    assert is_clean(label, 5) is clean


def test_files(tmp_path: Path) -> None:
    rows, data = small_table(), tmp_path / "data"
    (data / "articles").mkdir(parents=True)
    (data / "articles" / "articles.jsonl").write_text('{"id": "Q100", "title": "", "text": ""}\n')
    table = Table(rows)
    result = Cutter(table).run()
    write_slice(result, table.label, data)
    text = (data / "wikidata" / "facts.nt").read_text()
    assert all(one < other for one, other in pairwise(text.splitlines()))
    assert "<https://articles.counterfact.invalid/Q100> <http://schema.org/about>" in text
    lines = (data / "pararel" / "trex_lms_vocab" / "P413.jsonl").read_text().splitlines()
    tuples = [json.loads(line) for line in lines]
    assert len(tuples) == len(result.records["P413"]) == len({it["uuid"] for it in tuples})
    assert set(tuples[0]) == {"sub_label", "obj_label", "uuid"}
    assert table_of(count(result)) in (data / "wikidata" / "README.md").read_text()


def test_a_sparql_query_finds_those_who_share_an_object() -> None:
    table = Table(small_table())
    store = pyoxigraph.Store()
    store.load(ntriples(cut(small_table()).facts, table.label).encode(), pyoxigraph.RdfFormat.N_TRIPLES)
    query = """
        PREFIX wd: <http://www.wikidata.org/entity/>
        PREFIX wdt: <http://www.wikidata.org/prop/direct/>
        PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
        SELECT ?label WHERE {
          ?subject wdt:P413 wd:Q2 ; rdfs:label ?label .
          FILTER (LANG(?label) = "en")
          FILTER NOT EXISTS { ?subject wdt:P413 wd:Q1 }
        } ORDER BY ?subject"""
    found = store.query(query)
    assert isinstance(found, pyoxigraph.QuerySolutions)
    assert len(list(found)) == 6


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text("\t".join(HEADER) + "\nQ1\tone\n")
    with pytest.raises(BadInput, match=r"facts\.tsv:2: expected"):
        list(read_rows(path))


def test_the_committed_slice_keeps_the_rule() -> None:
    """What ships: 34 relations, one object for each record's subject, five subjects for each object, labels apart."""
    data = ROOT / "data"
    labels: dict[str, str] = {}
    objects: dict[tuple[str, str], list[str]] = {}
    holders: dict[tuple[str, str], int] = {}
    for line in (data / "wikidata" / "facts.nt").read_text(encoding="utf-8").splitlines():
        subject, predicate, value = line.removesuffix(" .").split(" ", 2)
        if predicate.endswith("#label>"):
            labels[subject] = value.removeprefix('"').removesuffix('"@en')
        elif "/prop/direct/" in predicate:
            relation = predicate.rsplit("/", 1)[1].removesuffix(">")
            objects.setdefault((subject, relation), []).append(value)
            holders[value, relation] = holders.get((value, relation), 0) + 1
    entities = {label: entity for entity, label in labels.items()}
    assert len({label.casefold() for label in labels.values()}) == len(labels)
    assert sum(map(len, objects.values())) >= 3000
    for relation in RELATIONS:
        lines = (data / "pararel" / "trex_lms_vocab" / f"{relation}.jsonl").read_text(encoding="utf-8").splitlines()
        for record in map(json.loads, lines):
            subject, truth = entities[record["sub_label"]], entities[record["obj_label"]]
            assert objects[subject, relation] == [truth]
            assert holders[truth, relation] >= 5
            assert record["obj_label"].casefold() not in record["sub_label"].casefold()
