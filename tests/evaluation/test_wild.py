"""Free generation: the published rules of comparing texts, and runs on records of several benchmarks."""

import json
from pathlib import Path

import pytest

from counterfact.contracts.benchmarks import BENCHMARKS
from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import Failure
from counterfact.core.files import write_json
from counterfact.core.records import BadRecord, Request
from counterfact.evaluation.benchmarks._answers import holds_answer, is_answer, normalised, without_end
from counterfact.evaluation.benchmarks.wild import WildBlock, spoken
from counterfact.evaluation.store import Run
from counterfact.lm.continuation import continuations
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.queries import Continuation
from tests.support.evaluating import counterfact, counterfact_record, fake_spec, low_rank_edit, run_fake, zsre
from tests.support.models import tiny_lm


def wild(folder: Path, source: str) -> Dataset:
    """A small data set of another benchmark, read for this one."""
    path = counterfact(folder / "data").path if source == "counterfact" else zsre(folder / "zsre.json").path
    return load_dataset(path, benchmark="wild")


@pytest.fixture(scope="module", params=["counterfact", "zsre"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the fake editor on records of each benchmark."""
    folder = tmp_path_factory.mktemp("wild")
    return run_fake(wild(folder, request.param), folder / "results")


def test_texts_are_compared_as_the_reference_does(real_data: Path) -> None:
    golden = json.loads((real_data / "golden/many_edits/wild.json").read_text())
    for case in golden["exact_match"]:
        assert normalised(case["prediction"]) == case["normalised_prediction"]
        assert normalised(case["target"]) == case["normalised_target"]
        assert is_answer(case["prediction"], case["target"]) is case["match"]
    for case in golden["suffix_removal"]:
        assert without_end(case["generated"], "<|endoftext|>") == case["kept"]


@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        (" Paris, France", ["Paris"], True),
        ("Parisian", ["Paris"], False),
        ("the City of Light", ["Paris", "city of light"], True),
        ("New York City", ["York"], True),
        ("St", ["St. Louis"], False),
        ("of it", ["the"], False),
        ("", ["Paris"], False),
        ("Zürich", ["Zurich", "ZÜRICH"], True),
    ],
)
def test_a_text_holds_an_answer_as_whole_words(text: str, answers: list[str], held: bool) -> None:
    assert holds_answer(text, answers) is held


def test_a_run_and_its_numbers(run: Run) -> None:
    assert run.benchmark.name == "wild"
    names = {"efficacy", "paraphrase", "specificity", "exact", "exact_para", "contains", "contains_para", "unchanged"}
    assert set(run.data["metrics"]) == {"S", *names}
    assert run.data["pre"]["unchanged"]["value"] == 100.0 > run.data["metrics"]["unchanged"]["value"]
    for name in ("exact", "exact_para"):
        looser = name.replace("exact", "contains")
        assert run.data["metrics"][name]["value"] <= run.data["metrics"][looser]["value"]
    for line in run.cases:
        if "post" in line:
            WildBlock.model_validate(line["post"])


def test_texts_are_what_the_edited_model_says(tmp_path: Path) -> None:
    dataset = wild(tmp_path, "counterfact")
    made, lm = run_fake(dataset, tmp_path / "results"), tiny_lm("gpt2", "float32")
    for record, line in zip(dataset.records, made.cases, strict=True):
        if isinstance(record, BadRecord):
            continue
        queries = spoken(record)
        with merged(lm, [low_rank_edit(lm, record.request, 0)]):
            edited = continuations(lm, queries[:7], [-1] * 7, [])
        before = continuations(lm, queries[7:], [-1] * 4, [])
        block = line["post"]
        sorts = ("rewrite", "paraphrase", "neighborhood")
        texts = [each["text"] for sort in sorts for each in block[f"{sort}_prompts_said"]]
        for text, each in zip(texts, edited, strict=True):
            assert isinstance(each, Continuation) and each.text is not None
            assert text == without_end(each.text, each.end)
        same = [each["unchanged"] for each in block["neighborhood_prompts_said"]]
        assert same == [one == other for one, other in zip(edited[3:], before, strict=True)]


def test_a_model_that_says_the_answer_scores(tmp_path: Path) -> None:
    """The answer is what the model says anyway; a word of it is held by the text, the whole text is exact."""
    lm, value = tiny_lm("gpt2", "float32"), counterfact_record(0)
    write_json(tmp_path / "one.json", [value])
    before = run_fake(load_dataset(tmp_path / "one.json", benchmark="wild"), tmp_path / "a", still())
    text = before.cases[0]["post"]["rewrite_prompts_said"][0]["text"]
    assert normalised(text), f"{lm.name} says something"
    value["requested_rewrite"]["target_new"]["str"] = text.strip()
    write_json(tmp_path / "two.json", [value])
    after = run_fake(load_dataset(tmp_path / "two.json", benchmark="wild"), tmp_path / "b", still())
    scores = {name: entry["value"] for name, entry in after.data["metrics"].items()}
    assert (scores["exact"], scores["contains"], scores["unchanged"]) == (100.0, 100.0, 100.0)


def test_records_that_cannot_be_asked_say_why() -> None:
    benchmark = BENCHMARKS.get("wild")
    value = counterfact_record(0)
    value["requested_rewrite"]["target_new"]["str"] = "The"
    bad = [benchmark.read(value, 0), benchmark.read({"question": "Who?"}, 3)]
    reasons = [each.reason for each in bad if isinstance(each, BadRecord)]
    assert reasons[0].startswith("the answer 'The' has no words")
    assert reasons[1].startswith("expected a record of") and reasons[1].endswith("got one with question")


def still():  # type: ignore[no-untyped-def]
    """An editor that changes nothing."""

    def nothing(_lm: LM, request: Request, _seed: int, _strength: float) -> Edit | Failure:
        return Edit((), (request.id,))

    return fake_spec(nothing)
