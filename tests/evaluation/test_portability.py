"""Portability and locality: what each question needs, and what counts of what a model says."""

from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.files import write_json
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.portability import PortabilityBlock, PortabilityRecord, parse
from counterfact.evaluation.store import Run
from counterfact.evaluation.summary import summary_tables
from tests.evaluation.test_wild import still
from tests.support.evaluating import CITIES, PEOPLE, run_fake

SYRIA: dict[str, Any] = {
    "subject": "Ada Orsa",
    "prompt": "The name of the country of citizenship of Ada Orsa is",
    "target_new": "Syria",
    "ground_truth": "Norway",
    "rephrase": "Ada Orsa is a citizen of",
    "portability": {},
    "locality": {},
}


def record(subject: str, city: str, other: str) -> dict[str, Any]:
    """A record with a question of every kind."""
    return {
        "subject": subject,
        "prompt": f"The name of the city of {subject} is",
        "target_new": city,
        "ground_truth": [other],
        "rephrase_prompt": f"{subject} was born in the city of",
        "portability": {
            "Reasoning": [{"prompt": f"The language of the city of {subject} is", "ground_truth": [["French", "fr"]]}],
            "Subject_Aliasing": [{"prompt": f"The name of the city of Mr {subject} is", "ground_truth": city}],
            "Logical_Generalization": [{"prompt": f"Who was born in {city}?", "ground_truth": [subject]}],
            "Other": [{"prompt": "The bridge is", "ground_truth": "new"}],
        },
        "locality": {
            "Relation_Specificity": [{"prompt": f"{subject} speaks", "ground_truth": [["Czech"], ["French"]]}]
        },
    }


def records(n: int = 6) -> list[dict[str, Any]]:
    return [record(PEOPLE[i], CITIES[i % 6], CITIES[(i + 1) % 6]) for i in range(n)]


def load(folder: Path, values: list[dict[str, Any]]) -> Dataset:
    write_json(folder / "knowedit.json", values)
    return load_dataset(folder / "knowedit.json", benchmark="portability")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six records, edited by the fake editor."""
    folder = tmp_path_factory.mktemp("portability")
    return run_fake(load(folder, records()), folder / "results")


@pytest.mark.parametrize(
    ("question", "needed"),
    [
        # Another name of the subject: the unedited model gives the old object.
        (("Mrs Orsa is a citizen of", [["Syria", "SY"]]), [("Mrs Orsa is a citizen of", ["Norway"])]),
        # A second step: known of the new object itself.
        (
            ("The currency of the country of citizenship of Ada Orsa is", [["Syrian pound", "SYP"]]),
            [("The currency of Syria is", ["Syrian pound", "SYP"])],
        ),
        # Back from the new object to the subject: nothing more.
        (("A citizen of Syria is", "Ada Orsa"), []),
        # It cannot be told.
        (("The mother of Ada Orsa speaks", "Arabic"), None),
    ],
)
def test_what_a_question_needs(question: tuple[str, Any], needed: list[tuple[str, list[str]]] | None) -> None:
    prompt, answers = question
    value = {**SYRIA, "portability": {"any": [{"prompt": prompt, "ground_truth": answers}]}}
    made = parse(value, 0)
    found = made.needed(made.portability["any"][0])
    assert needed == (None if found is None else [(fact.prompt, fact.ground_truth) for fact in found])


def test_a_file_may_say_what_is_needed() -> None:
    needs = [{"prompt": "Oslo is in", "ground_truth": "Norway"}, {"prompt": "Ada lives in", "ground_truth": "Oslo"}]
    question = {"prompt": "Ada's country is", "ground_truth": "Syria", "needs": needs}
    made = parse({**SYRIA, "portability": {"any": [question]}}, 0)
    assert [fact.prompt for fact in made.needed(made.portability["any"][0]) or []] == ["Oslo is in", "Ada lives in"]


def test_a_run_and_its_numbers(run: Run) -> None:
    names = {"efficacy", "paraphrase", "exact", "exact_para", "contains", "contains_para"}
    assert set(run.data["metrics"]) == {"S", *names, "portability", "portability_all", "locality"}
    assert run.benchmark.name == "portability" and run.data["n"]["scored"] == 6
    for line in run.cases:
        PortabilityBlock.model_validate(line["post"])
        said = line["post"]["portability_prompts_said"]
        assert [each["sort"] for each in said] == ["Reasoning", "Subject_Aliasing", "Logical_Generalization", "Other"]
        assert said[2]["known"] is True and said[3]["known"] is None
        assert line["post"]["locality_prompts_said"][0]["answers"] == ["Czech", "French"]


def test_what_the_model_knew_counts(tmp_path: Path) -> None:
    """The old object and the neighbor's answer are what the model says anyway; then both questions count."""
    before = run_fake(load(tmp_path, records(1)), tmp_path / "a", still())
    said = before.cases[0]["post"]
    value = records(1)[0]
    value["ground_truth"] = [said["portability_prompts_said"][1]["text"]]
    value["locality"]["Relation_Specificity"][0]["ground_truth"] = [
        ["Czech"],
        [said["locality_prompts_said"][0]["text"]],
    ]
    assert before.data["metrics"]["locality"]["value"] is None
    after = run_fake(load(tmp_path, [value]), tmp_path / "b", still())
    block = after.cases[0]["post"]
    assert [each["known"] for each in block["portability_prompts_said"][1:]] == [True, True, None]
    scores = {name: entry["value"] for name, entry in after.data["metrics"].items()}
    assert (scores["locality"], scores["portability"], scores["portability_all"]) == (100.0, 0.0, 0.0)


def test_records_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    values = [
        {**SYRIA, "prompt": "No one is a citizen of"},
        {**SYRIA, "target_new": "the"},
        {**SYRIA, "ground_truth": []},
        {**SYRIA, "portability": {"any": [{"prompt": "Who?"}]}},
        SYRIA,
    ]
    found = load(tmp_path, values).records
    reasons = [each.reason for each in found if isinstance(each, BadRecord)]
    assert len(reasons) == 4
    for reason, part in zip(reasons, ("is not in", "no words", "ground_truth", "Field required"), strict=True):
        assert part in reason


@pytest.mark.parametrize("benchmark", ["portability", "wild"])
def test_nothing_stands_before_an_answer_in_a_script_without_spaces(tmp_path: Path, benchmark: str) -> None:
    chinese = {**record(PEOPLE[0], "巴黎", "罗马"), "prompt": f"{PEOPLE[0]}出生于", "subject": PEOPLE[0].upper()}
    write_json(tmp_path / "knowedit.json", [chinese, record(*PEOPLE[:1], *CITIES[:2])])
    dataset = load_dataset(tmp_path / "knowedit.json", benchmark=benchmark)
    joiners = [{query.joiner for query in dataset.benchmark.queries(each)} for each in dataset.records]
    assert joiners == [{""}, {" "}]
    assert [each.request.joiner for each in dataset.records if not isinstance(each, BadRecord)] == ["", " "]
    assert dataset.records[0].request.subject == PEOPLE[0], "the subject is named as the prompt has it"


def test_free_generation_asks_the_same_records(tmp_path: Path) -> None:
    load(tmp_path, records(2))
    made = run_fake(load_dataset(tmp_path / "knowedit.json", benchmark="wild"), tmp_path / "results")
    assert made.data["n"]["scored"] == 2 and len(made.cases[0]["post"]["neighborhood_prompts_said"]) == 1


@pytest.mark.parametrize(("name", "at_least"), [("wiki_counterfact_400", 400), ("zsre_200", 200)])
def test_published_files_are_read(real_data: Path, name: str, at_least: int) -> None:
    data = load_dataset(real_data / "knowedit" / f"{name}.json", benchmark="portability")
    good = [each for each in data.records if isinstance(each, PortabilityRecord)]
    assert data.kind == "portability" and len(good) == at_least
    needed = [each.needed(question) for each in good for some in each.portability.values() for question in some]
    assert sum(each is not None for each in needed) > 0.25 * len(needed)


def test_the_same_records_by_criterion(tmp_path: Path) -> None:
    """Each criterion counts its own questions and its own records, also those in KnowEdit's files."""
    write_json(tmp_path / "knowedit.json", [*records(2), {**SYRIA, "case_id": 9}])
    data = load_dataset(tmp_path / "knowedit.json", benchmark="ripples")
    run = run_fake(data, tmp_path / "results", still())
    assert {symbol for _, symbols in run.benchmark.columns for symbol in symbols} <= set(run.data["metrics"])
    entries = {name: (entry["value"], entry["n"]) for name, entry in run.data["metrics"].items()}
    # Nobody says the subject; the way back needs nothing, so it counts in both records that ask it.
    assert entries["logic"] == (0.0, 2) and entries["comp_1"] == (None, 0)
    (table,) = summary_tables([run])
    assert "alias 0, logic 2, comp_1 0" in table.note
