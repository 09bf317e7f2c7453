"""The embedded world: what is composed is the same each time, and what is withheld stays out of every text."""

import json
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from counterfact.core.files import read_json, read_jsonl
from counterfact.core.places import data_folder
from world.articles import article, compose
from world.corpus import Corpus, Mix
from world.factlm import tokenizer_for
from world.knowledge import Knowledge, read_knowledge
from world.language import write
from world.model_training import Recipe, train
from world.rows import Packer, Span, Weights, visibility
from world.table import Fact
from world.withheld import choose, reserve
from world.zsre import write_zsre


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return read_knowledge(data_folder())


@pytest.fixture(scope="module")
def packer(knowledge: Knowledge) -> Packer:
    tokenizer = tokenizer_for(knowledge, data_folder(), Recipe())
    subjects = {subject: index for index, subject in enumerate(sorted(knowledge.of_subject))}
    return Packer(tokenizer, subjects, 256, Weights(), random.Random(0))


def stated(text: str, knowledge: Knowledge) -> list[Fact]:
    """The withheld facts that a text states in a sentence of the grammar or a template."""
    found = []
    for fact in knowledge.withheld:
        if knowledge.label[fact.subject] in text and knowledge.label[fact.object] in text:
            language = knowledge.languages[fact.relation]
            slots = {"s": fact.subject, "o": fact.object}
            forms = (*language.facts, *language.templates)
            found += [fact for form in forms if write(form, slots, knowledge.label).text in text]
    return found


def test_articles_in_the_file_are_what_the_facts_give(knowledge: Knowledge) -> None:
    lines = list(read_jsonl(data_folder() / "articles/articles.jsonl"))
    assert {line["id"] for line in lines} == set(knowledge.of_subject)
    for line in lines[::50]:
        assert line == article(knowledge, line["id"])


def test_files_of_the_world_are_small_enough_to_track() -> None:
    sizes = [path.stat().st_size for path in data_folder().rglob("*") if path.is_file()]
    assert max(sizes) < 8_000_000
    assert sum(sizes) < 25_000_000


def test_mentions_stand_where_they_say(knowledge: Knowledge) -> None:
    rng = random.Random(0)
    for subject in sorted(knowledge.of_subject)[::100]:
        text = compose(knowledge, subject, rng)
        for mention in text.mentions:
            assert text.text[mention.start : mention.end] == knowledge.label[mention.entity]


def test_corpus_is_deterministic_and_goes_on(knowledge: Knowledge) -> None:
    first, second = (list(islice(Corpus(knowledge, 3).facts(), 50)) for _ in range(2))
    assert first == second
    assert first != list(islice(Corpus(knowledge, 4).facts(), 50))


def test_a_round_meets_every_fact_and_no_held_out_pair(knowledge: Knowledge) -> None:
    corpus = Corpus(knowledge, 0, Mix(prefix=0))
    documents = list(islice(corpus.facts(), len(knowledge.facts)))
    texts = [document.text.text for document in documents]
    for document in documents:
        if document.target is None:
            continue
        mention = document.text.mentions[document.target]
        assert (mention.slot, document.text.text[mention.start : mention.end]) == ("o", knowledge.label[mention.entity])
    forbidden = {
        write(language.prompts[index], {"s": fact.subject}, knowledge.label).text
        for fact in knowledge.facts
        for language in [knowledge.languages[fact.relation]]
        for index in language.held_out(fact.subject) | {language.never}
    }
    for text in texts:
        assert not any(text[:index] in forbidden for index, letter in enumerate(text) if letter == " ")


def test_withheld_facts_are_in_no_file_and_no_training_text(knowledge: Knowledge) -> None:
    assert len(knowledge.withheld) >= 300
    gone = {(fact.subject, fact.relation) for fact in knowledge.withheld}
    assert not gone & {(fact.subject, fact.relation) for fact in knowledge.facts}
    for document in islice(Corpus(knowledge, 1).facts(), 1000):
        assert not stated(document.text.text, knowledge)
    for line in read_jsonl(data_folder() / "articles/articles.jsonl"):
        assert not stated(line["text"], knowledge)


def test_reserving_again_changes_nothing(knowledge: Knowledge) -> None:
    facts = [*knowledge.facts, *knowledge.withheld]
    records = [*knowledge.records, *knowledge.withheld_records]
    facts.sort(key=lambda fact: (int(fact.relation[1:]), int(fact.subject[1:]), int(fact.object[1:])))
    assert choose(facts, records) == list(knowledge.withheld)


def test_zsre_halves_follow_the_schema(knowledge: Knowledge) -> None:
    keys = {"subject", "src", "pred", "rephrase", "alt", "answers", "loc", "loc_ans", "cond"}
    known = {(knowledge.label[it.subject], knowledge.label[it.object]) for it in knowledge.records}
    withheld = {(knowledge.label[it.subject], knowledge.label[it.object]) for it in knowledge.withheld}
    for name, facts in (("train", known), ("eval", withheld)):
        for record in read_json(data_folder() / f"zsre/{name}.json"):
            assert set(record) == keys
            assert (record["subject"], record["answers"][0]) in facts
            assert f" {record['subject']}" in record["src"]
            assert f" {record['subject']}" in record["rephrase"]
            assert record["src"] != record["rephrase"]
            assert record["loc"].startswith("nq question: ")
            assert record["alt"] not in record["answers"]


def test_visibility_hides_all_but_the_last_token_of_a_subject() -> None:
    mask = visibility(6, [Span(1, 3, 0, True)])
    assert mask[3].tolist() == [True, True, True, True, False, False]
    assert mask[5].tolist() == [True, False, False, True, True, True]
    assert np.array_equal(visibility(6, [Span(1, 3, 0, False)]), np.tril(np.ones((6, 6), dtype=bool)))
    twice = visibility(8, [Span(0, 1, 0, True), Span(4, 5, 0, True)])
    assert twice[:, 0].tolist() == [True, True, False, True, True, False, False, False]


def test_batch_isolates_segments_and_marks_last_subject_tokens(knowledge: Knowledge, packer: Packer) -> None:
    corpus = Corpus(knowledge, 0)
    row = next(packer.fact_rows(corpus.facts()))
    batch = packer.batch([row, *islice(packer.article_rows(corpus.articles()), 1)])
    sizes = [len(segment.ids) for segment in row]
    assert sum(sizes) <= 256
    assert batch.visible.diagonal(dim1=2, dim2=3).all()
    assert not batch.visible[0, 0, sizes[0] :, : sizes[0]].any()
    assert batch.positions[0, sizes[0]] == 0
    assert batch.weights[0, sizes[0] - 1] == 0
    labels = {index: knowledge.label[subject] for subject, index in packer.subjects.items()}
    for (number, position), subject in zip(batch.lasts.tolist(), batch.subjects.tolist(), strict=True):
        text = packer.tokenizer.decode(batch.ids[number, : position + 1])
        assert text.endswith(labels[subject])


def test_words_of_objects_are_single_tokens(knowledge: Knowledge, packer: Packer) -> None:
    objects = sorted({knowledge.label[fact.object] for fact in knowledge.records})
    words = [len(packer.tokenizer(" " + label)["input_ids"]) == len(label.split(" ")) for label in objects]
    assert sum(words) / len(words) >= 0.97
    assert any(" " in label for label in objects)


def test_two_steps_of_training_are_the_same_twice(knowledge: Knowledge, packer: Packer) -> None:
    recipe = Recipe(width=32, layers=3, heads=2, steps=2, head_layer=1)
    corpus = Corpus(knowledge, 0)
    batch = packer.batch([next(packer.fact_rows(corpus.facts()))])
    owned = torch.eye(len(packer.subjects))
    first, second = (train(recipe, iter([batch, batch]), owned, 0) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_zsre_and_slice_are_written_the_same_again(knowledge: Knowledge, tmp_path: Path) -> None:
    import shutil

    for part in ("wikidata", "pararel", "zsre", "articles"):
        shutil.copytree(data_folder() / part, tmp_path / part)
    reserve(knowledge, tmp_path)
    write_zsre(tmp_path)
    for name in ("wikidata/facts.nt", "zsre/eval.json", "zsre/train.json", "zsre/withheld.jsonl"):
        assert (tmp_path / name).read_bytes() == (data_folder() / name).read_bytes(), name
    assert json.loads((tmp_path / "zsre/eval.json").read_text())
