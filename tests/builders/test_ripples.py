"""Ripples: each criterion on a world known by heart, what is left out, and what holds of every question."""

from pathlib import Path
from typing import Any

import pytest
from pyoxigraph import RdfFormat, Store

from counterfact.builders.counterfact import build
from counterfact.builders.ripples.facts import FactsAround
from counterfact.builders.ripples.relations import load_relations_in_words
from counterfact.builders.ripples.writing import ripples_of
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.queries import ALIAS, DIRECT, ENTITY, LABEL
from counterfact.builders.sources.sparql import QueryResult, QueryTooLarge
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.places import data_folder
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.evaluation.benchmarks.portability import PortabilityRecord
from tests.support.fast_client import fast_client
from tests.support.sparql_server import serve

NAMES = {
    "Q1": ["Orsa", "Land of Orsa", "OR", "the"],
    "Q2": ["Dalby"],
    "Q3": ["Vasta", "Vasta City"],
    "Q4": ["Norland", "Kingdom of Norland"],
    "Q5": ["Ada Holm"],
    "Q6": ["Norse"],
    "Q7": ["Bo Berg"],
    "Q8": ["Esk"],
    "Q9": ["Europa"],
}
FACTS = """Q1 P36 Q2; Q1 P37 Q6; Q1 P37 Q8; Q1 P30 Q9; Q1 P1376 Q2; Q4 P36 Q3; Q3 P17 Q4; Q3 P131 Q4; Q2 P17 Q1;
Q5 P27 Q1; Q7 P27 Q1; Q7 P27 Q4; Q3 P37 Q8; Q2 P37 Q8"""


def world(folder: Path, more: str = "") -> StoreSource:
    """Orsa, whose capital Dalby becomes Vasta, so far the capital of Norland."""
    lines = [
        f'<{ENTITY}{entity}> <{ALIAS if place else LABEL}> "{name}"@en .'
        for entity, names in NAMES.items()
        for place, name in enumerate(names)
    ]
    for fact in f"{FACTS}; {more}".replace("\n", " ").split(";"):
        if fact.strip():
            subject, relation, object = fact.split()
            lines.append(f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .")
    (folder / "facts.nt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return StoreSource.open(folder)


def record(relation: str = "P36", prompt: str = "The heart of {} is", **other: Any) -> CounterFactRecord:
    value = {
        "case_id": 7,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "target_new": {"str": "Vasta", "id": "Q3"},
            "target_true": {"str": "Dalby", "id": "Q2"},
            "subject": "Orsa",
        },
        "paraphrase_prompts": ["Far off. Orsa is ruled from"],
        "neighborhood_prompts": [],
        "attribute_prompts": ["The heart of Norland is"],
        "generation_prompts": [],
        "provenance": {"subject_id": "Q1", "neighborhood_ids": [], "attribute_ids": ["Q4"]},
    }
    return CounterFactRecord.model_validate({**value, **other})


def made(folder: Path, source: Any = None, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    relations = load_relations_in_words(data_folder() / "relations")
    found = ripples_of([record()], source or world(folder), relations, **options)
    (line,) = found.lines
    return line, found.counts


def asked(line: dict[str, Any], part: str, sort: str) -> dict[str, list[str]]:
    return {each["prompt"]: each["ground_truth"] for each in line[part].get(sort, [])}


def test_every_criterion_of_a_world_known_by_heart(tmp_path: Path) -> None:
    line, counts = made(tmp_path)
    # "OR" is another name to ask by; "the" is no word of its own.
    vasta = ["Vasta", "Vasta City"]
    assert asked(line, "portability", "Subject_Aliasing") == {
        "The heart of Land of Orsa is": vasta,
        "The heart of OR is": vasta,
    }
    # Norland is governed from Vasta, too: it is excluded, for it would be as true.
    back = "Apart from Norland, as a capital, Vasta is the seat of government of"
    assert asked(line, "portability", "Logical_Generalization") == {back: ["Orsa", "Land of Orsa"]}
    # Vasta's language is that of Dalby: nothing would follow.
    assert asked(line, "portability", "Compositionality_I") == {
        "The country in which the capital of Orsa is found is": ["Norland", "Kingdom of Norland"],
        "The administrative unit that contains the capital of Orsa is": ["Norland", "Kingdom of Norland"],
    }
    assert counts["Compositionality_I"]["left_out"] == {"answered so before the edit": 1}
    # Bo is of two countries, so that "the country of Bo" is none; and Dalby leads there, whose own fact is edited.
    assert asked(line, "portability", "Compositionality_II") == {
        "The seat of government of the country of citizenship of Ada Holm is": vasta
    }
    # The language may depend on the capital, the continent does not.
    assert asked(line, "locality", "Relation_Specificity") == {"The continent on which Orsa lies is": ["Europa"]}
    assert asked(line, "locality", "Attribute") == {"The heart of Norland is": vasta}
    assert "Forgetfulness" not in line["locality"] and "Neighborhood" not in line["locality"]
    assert (line["subject"], line["prompt"], line["case_id"]) == ("Orsa", "The heart of Orsa is", 7)
    assert line["ground_truth"] == ["Dalby"] and line["ripples_of"] == ["Q1", "P36", "Q2", "Q3"]


def test_what_must_be_known_and_what_justifies_it(tmp_path: Path) -> None:
    line, _ = made(tmp_path)
    (first, *_) = line["portability"]["Compositionality_I"]
    assert first["needs"] == [
        {"prompt": "The country in which Vasta is found is", "ground_truth": ["Norland", "Kingdom of Norland"]}
    ]
    assert first["triples"] == [["Q1", "P36", "Q3"], ["Q3", "P17", "Q4"]]
    (alias, _) = line["portability"]["Subject_Aliasing"]
    assert alias["needs"] == [{"prompt": alias["prompt"], "ground_truth": ["Dalby"]}]
    (back,) = line["portability"]["Logical_Generalization"]
    assert back["needs"] == [] and back["triples"] == [["Q1", "P36", "Q3"], ["Q4", "P36", "Q3"]]


def test_a_second_capital_is_kept_and_makes_the_first_step_ambiguous(tmp_path: Path) -> None:
    line, _ = made(tmp_path, world(tmp_path, "Q1 P36 Q8"))
    prompt = "Apart from Vasta, the seat of government of Orsa is"
    assert asked(line, "locality", "Forgetfulness") == {prompt: ["Esk"]}
    assert "Compositionality_I" not in line["portability"]


def test_of_many_questions_some_are_drawn_by_the_seed(tmp_path: Path) -> None:
    source = world(tmp_path)
    drawn = {str(made(tmp_path, source, most=1, seed=seed)[0]["portability"]) for seed in range(8)}
    line, counts = made(tmp_path, source, most=1, seed=0)
    assert len(drawn) > 1 and all(len(each) == 1 for each in line["portability"].values())
    assert counts["Subject_Aliasing"] == {"prompts": 1, "records": 1, "left_out": {"more than wanted": 1}}
    assert line == made(tmp_path, source, most=1, seed=0)[0]


def test_a_subject_to_which_too_much_leads_loses_only_that(tmp_path: Path) -> None:
    class Slow(StoreSource):
        def select(self, query: str, *, divisible: bool = False) -> QueryResult:
            if "MIN(" in query and f"{ENTITY}Q1>" in query:
                raise QueryTooLarge("too much")
            return super().select(query, divisible=divisible)

    line, counts = made(tmp_path, Slow(world(tmp_path).files))
    assert "Compositionality_II" not in line["portability"] and "Compositionality_I" in line["portability"]
    assert counts["subjects to which too many facts lead to list"] == 1


def test_an_endpoint_gives_the_same_as_files(tmp_path: Path) -> None:
    files = world(tmp_path)
    store = Store()
    store.bulk_load(path=str(files.files[0]), format=RdfFormat.N_TRIPLES)
    with serve(store) as url:
        assert made(tmp_path, EndpointSource(url, fast_client(tmp_path / "a.sqlite"))) == made(tmp_path, files)


def test_real_entities_have_other_names(real_data: Path) -> None:
    facts = FactsAround(StoreSource.open(real_data / "wikidata_rdf"), [])
    facts.learn_names(["Q42"])
    label, *others = facts.names("Q42")
    assert label == "Douglas Adams" and len(others) >= 3 and "Douglas Noel Adams" in others


def test_records_without_ids_have_none(tmp_path: Path) -> None:
    relations = load_relations_in_words(data_folder() / "relations")
    assert ripples_of([record(provenance=None)], world(tmp_path), relations).lines == []


def test_words_that_are_missing_or_malformed_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no words for relations in xx.*in .*en"):
        load_relations_in_words(data_folder() / "relations", "xx")
    (tmp_path / "en.jsonl").write_text('{"apart": "But {}, "}\n{"relation": "P1", "ask": "It is"}\n')
    (tmp_path / "logic.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"en\.jsonl: expected one \{\}"):
        load_relations_in_words(tmp_path)


def test_the_relations_that_ship_fit_together() -> None:
    relations = load_relations_in_words(data_folder() / "relations")
    for relation, logic in relations.logic.items():
        named = {relation, *logic.related, *(each for one in logic.implies for each in (one.joined, one.gives))}
        assert named | ({logic.inverse} if logic.inverse else set()) <= set(relations.words)
    assert relations.may_depend("P30", "P17") and relations.may_depend("P17", "P30")
    assert not relations.may_depend("P19", "P106")
    symmetric = [relation for relation, logic in relations.logic.items() if logic.inverse == relation]
    assert {"P26", "P47", "P190"} <= set(symmetric)
    back = {relation: logic.inverse for relation, logic in relations.logic.items() if logic.inverse}
    # Both parents lead back to a child; of a child it is not known which parent.
    assert {relation for relation, inverse in back.items() if back.get(inverse or "") != relation} == {"P22", "P25"}


def test_a_build_with_ripples_of_the_embedded_world(tmp_path: Path) -> None:
    """Every question but those of the edit rests on facts of the world, and none has an answer in its prompt."""
    report = build(tmp_path / "out", relations=["P276"], ripples=True, reference_texts=0)
    facts = set()
    for line in (data_folder() / "wikidata" / "facts.nt").read_text(encoding="utf-8").splitlines():
        subject, predicate, object = line.split(" ", 2)
        facts.add((subject.strip("<>").removeprefix(ENTITY), predicate.strip("<>"), object.split(">")[0][1:]))
    lines = list(read_jsonl(report.path / "ripples.jsonl"))
    assert len(lines) == report.records == report.meta["ripples"]["records"]
    seen = 0
    for line in lines:
        subject, relation, _, new = line["ripples_of"]
        for part in ("portability", "locality"):
            for questions in line[part].values():
                for each in questions:
                    seen += 1
                    rest = [t for t in each["triples"] if t != [subject, relation, new]]
                    assert all((s, f"{DIRECT}{r}", f"{ENTITY}{o}") in facts for s, r, o in rest)
                    assert part == "portability" or len(rest) == len(each["triples"])
                    assert not any(f" {name} " in f" {each['prompt']} " for name in each["ground_truth"])
    counts = report.meta["ripples"]
    assert seen == sum(count["prompts"] for count in counts.values() if isinstance(count, dict))
    assert all(counts[name]["prompts"] >= 5 for name in ("Logical_Generalization", "Compositionality_I"))
    data = load_dataset(report.path / "ripples.jsonl")
    assert data.kind == "ripples" and not data.notes
    assert all(isinstance(one, PortabilityRecord) for one in data.records)
    assert load_dataset(report.path / "ripples.jsonl", benchmark="portability").kind == "portability"
