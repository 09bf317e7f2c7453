"""Other languages: how names join sentences, and a data set in French and German made from one in English."""

from pathlib import Path

import pytest

from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.languages import translation
from counterfact.builders.languages.grammar import Grammar, load_grammar
from counterfact.builders.languages.translation import load_templates
from counterfact.builders.ripples.relations import load_relations_in_words
from counterfact.builders.sources.local_store import StoreSource, read_facts_table
from counterfact.builders.sources.options import SourceOptions
from counterfact.builders.sources.queries import ENTITY, LABEL, literal
from counterfact.builders.texts.generation_prompts import load_generation_prompts
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.places import data_folder
from counterfact.evaluation.benchmarks.portability import PortabilityRecord
from tests.support import Command
from tests.support.made_up_world import TONGUES, small_world

OURS = ("fr", "de")


def grammar(language: str) -> Grammar:
    return load_grammar(data_folder() / "languages", language)


@pytest.mark.parametrize(
    ("language", "template", "name", "expected"),
    [
        ("fr", "La capitale de {} est", "Oslo", "La capitale d'Oslo est"),
        ("fr", "La capitale de {} est", "Lyon", "La capitale de Lyon est"),
        ("fr", "La capitale de {} est", "Italie", "La capitale de l'Italie est"),
        ("fr", "La capitale de {} est", "France", "La capitale de la France est"),
        ("fr", "La capitale de {} est", "Japon", "La capitale du Japon est"),
        ("fr", "La capitale de {} est", "États-Unis", "La capitale des États-Unis est"),
        ("fr", "{} a pour capitale", "Italie", "L'Italie a pour capitale"),
        ("fr", "Les rues de {} mènent", "Le Havre", "Les rues du Havre mènent"),
        ("fr", "On arrive à {} par", "Les Sables-d'Olonne", "On arrive aux Sables-d'Olonne par"),
        ("fr", "Les plans de {} sont", "Le Corbusier", "Les plans de Le Corbusier sont"),
        ("fr", "La langue de {} est", "le pays de Lyon", "La langue du pays de Lyon est"),
        ("fr", "Les vers de {} sont", "Hugo", "Les vers de Hugo sont"),
        ("fr", "Les vers de {} sont", "Homère", "Les vers d'Homère sont"),
        ("fr", "La grande ville {} est", "Oslo", "La grande ville Oslo est"),
        ("de", "Die Hauptstadt von {} ist", "Norwegen", "Die Hauptstadt von Norwegen ist"),
        ("de", "Die Hauptstadt von {} ist", "Schweiz", "Die Hauptstadt von der Schweiz ist"),
        ("de", "Die Hauptstadt von {} ist", "Irak", "Die Hauptstadt vom Irak ist"),
        ("de", "Die Hauptstadt von {} ist", "Vereinigtes Königreich", "Die Hauptstadt vom Vereinigten Königreich ist"),
        ("de", "Die Hauptstadt von {} ist", "Niederlande", "Die Hauptstadt von den Niederlanden ist"),
        (
            "de",
            "Die Hauptstadt von {} ist",
            "Demokratische Republik Kongo",
            "Die Hauptstadt von der Demokratischen Republik Kongo ist",
        ),
        ("de", "Der Kontinent, auf dem {} liegt, heißt", "Türkei", "Der Kontinent, auf dem die Türkei liegt, heißt"),
        ("de", "{} gehört zu", "Iran", "Der Iran gehört zu"),
        ("de", "Die Hauptstadt von {} ist", "dem Land von Bo", "Die Hauptstadt vom Land von Bo ist"),
        ("en", "The capital of {} is", "Oslo", "The capital of Oslo is"),
        ("xx", "{} is", "Oslo", "Oslo is"),
    ],
)
def test_names_join_sentences_by_the_rules_of_the_language(
    language: str, template: str, name: str, expected: str
) -> None:
    assert grammar(language).fill(template, name) == expected


def test_a_name_stays_whole_where_only_an_article_is_added() -> None:
    assert grammar("fr").join("La capitale de {} est", "Italie") == ("La capitale de l'{} est", "Italie")


@pytest.mark.parametrize("language", OURS)
def test_what_ships_for_a_language_fits_together(language: str) -> None:
    """Ten relations or more, three templates and prompts each; no template ends in a word that the object changes."""
    templates = load_templates(data_folder() / "pararel" / language, language)
    generation = load_generation_prompts(data_folder() / "prompts" / "generation" / language)
    relations = load_relations_in_words(data_folder() / "relations", language, grammar(language))
    assert len(templates) >= 10 and templates.keys() == generation.keys() == relations.words.keys()
    english = load_relations_in_words(data_folder() / "relations")
    assert templates.keys() <= english.words.keys()
    for relation, found in templates.items():
        assert len(found) == 3 and len(generation[relation]) == 3, relation
        for template in (*found, relations.words[relation].ask):
            assert template.split()[-1].casefold() not in grammar(language).words_that_change, template


def test_ripples_are_asked_in_the_language() -> None:
    french = load_relations_in_words(data_folder() / "relations", "fr", grammar("fr"))
    country = french.phrase("P17", "Lyon")
    assert country == "le pays de Lyon" and french.ask("P36", country) == "La capitale du pays de Lyon est"
    assert french.ask_apart_from("P36", "Italie", "Rome") == "Outre Rome, la capitale de l'Italie est"


def french_labels(folder: Path, extra: str = "") -> Path:
    """A slice with French labels for all but the last of the people."""
    path = folder / "fr.nt"
    world = small_world(["P103"])
    lines = [
        f"<{ENTITY}{id}> <{LABEL}> {literal(f'{label} la Rousse' if label not in TONGUES else label.lower())}@fr ."
        for id, label in world.labels.items()
        if id != "Q139"
    ]
    path.write_text("\n".join([*lines, extra]) + "\n", encoding="utf-8")
    return path


def test_the_same_edits_in_french(tmp_path: Path, command: Command) -> None:
    english = build_from_sources(small_world(["P103"]).write(tmp_path / "world"), BuildSettings(), tmp_path / "en")
    labels = french_labels(tmp_path)
    code, _, err = command(
        *("build", "--from", english.path, "--language", "fr", "--sparql", labels, "--out", tmp_path / "fr")
    )
    assert code == 0, err
    ours = {row["provenance"]["fact_id"]: row for row in read_jsonl(english.path / "records.jsonl")}
    rows = list(read_jsonl(tmp_path / "fr" / "records.jsonl"))
    dropped = list(read_jsonl(tmp_path / "fr" / "dropped.jsonl"))
    assert len(rows) + len(dropped) == len(ours) and {one["reason"] for one in dropped} <= {"no label"}
    for row in rows:
        first = ours[row["provenance"]["fact_id"]]
        edit, other = first["requested_rewrite"], row["requested_rewrite"]
        assert row["case_id"] == first["case_id"]
        assert [edit[key]["id"] for key in ("target_new", "target_true")] == [
            other[key]["id"] for key in ("target_new", "target_true")
        ]
        assert other["subject"] == f"{edit['subject']} la Rousse"
        assert other["target_new"]["str"] == edit["target_new"]["str"].lower()
        assert "parl" in "".join([other["prompt"], *row["paraphrase_prompts"]]) and len(row["paraphrase_prompts"]) == 2
        near = row["neighborhood_prompts"]
        assert len(near) == len(set(near)) == len(row["provenance"]["neighborhood_ids"]) >= 5
        assert len(row["generation_prompts"]) == 3
    assert load_dataset(tmp_path / "fr").kind == "counterfact"
    data = load_dataset(tmp_path / "fr" / "across.jsonl", benchmark="portability")
    record = data.records[0]
    assert isinstance(record, PortabilityRecord)
    # The edit is English, the questions are French, and count where the unedited model says the true object there.
    edits = [first["requested_rewrite"] for first in ours.values()]
    assert record.prompt in {edit["prompt"].format(edit["subject"]) for edit in edits}
    (questions,) = record.portability.values()
    assert len(questions) == 3 and all("la Rousse" in each.prompt for each in questions)
    assert questions[0].needs is not None and questions[0].needs[0].prompt == questions[0].prompt
    options = SourceOptions(sparql=labels, language="fr")
    assert translation.build(tmp_path / "fr", english.path, "fr", options=options).reused


def test_a_table_of_facts_says_its_language(tmp_path: Path) -> None:
    columns = "subject_id\tsubject_label\tproperty_id\tobject_id\tobject_label"
    english, french = tmp_path / "a.tsv", tmp_path / "b.tsv"
    english.write_text(f"{columns}\nQ1\tNorway\tP36\tQ2\tOslo\n")
    french.write_text(f"{columns}\tlanguage\nQ1\tNorvège\tP36\tQ2\tOslo\tfr\n", encoding="utf-8")
    assert b'"Norway"@en' in read_facts_table(english) and '"Norvège"@fr'.encode() in read_facts_table(french)
    world = small_world(["P103"]).write(tmp_path / "world")
    built = build_from_sources(world, BuildSettings(), tmp_path / "en")
    with pytest.raises(BadInput, match=r"no label in fr in a\.tsv: a table of facts is in English unless"):
        translation.build(tmp_path / "fr", built.path, "fr", options=SourceOptions(sparql=english, language="fr"))
    with pytest.raises(BadInput, match=r"no record of .* could be put into fr; .*no label"):
        translation.build(tmp_path / "fr", built.path, "fr", options=SourceOptions(sparql=french, language="fr"))
    assert StoreSource.open(french).select(f"SELECT ?e WHERE {{ ?e <{LABEL}> ?l }}").rows


def test_rules_that_are_malformed_are_named(tmp_path: Path) -> None:
    (tmp_path / "fr.json").write_text(
        '{"words_that_change": [], "rules": [{"why": "a", "before": "(", "before_to": ""}]}'
    )
    with pytest.raises(BadInput, match=r"fr\.json: missing \)"):
        load_grammar(tmp_path, "fr")
    (tmp_path / "de.json").write_text('{"rules": []}')
    with pytest.raises(BadInput, match=r"(?s)de\.json: .*words_that_change"):
        load_grammar(tmp_path, "de")


def test_a_data_set_is_only_taken_for_something(command: Command, tmp_path: Path) -> None:
    code, _, err = command("build", "--from", "datasets/none", "--out", tmp_path / "out")
    assert code != 0 and "--non-conflicting, or --language CODE" in " ".join(err.split())
