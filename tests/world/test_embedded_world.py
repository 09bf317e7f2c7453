"""The embedded world shows what the benchmark measures: factlm knows its facts, and editors differ as in the paper."""

from pathlib import Path

import pytest

from counterfact.builders.texts.generation_prompts import load_generation_prompts
from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.files import read_json
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.texts import load_texts
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.evaluation.summary import paired
from counterfact.evaluation.task import Options
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.queries import Query, TargetScore
from counterfact.lm.scoring import score
from world.knowledge import read_knowledge
from world.readability import judge, sample, world_words

RECORDS = 64
MODEL = data_folder() / "models" / "factlm"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm(MODEL, device="cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from counterfact.builders.counterfact import build

    folder = tmp_path_factory.mktemp("embedded")
    build(folder / "counterfact")
    return load_dataset(folder / "counterfact", RECORDS)


def test_the_record_of_what_is_known_is_good_enough() -> None:
    known = [fact for fact in read_json(MODEL / "known.json") if fact.get("held_out") is not None]
    assert len(known) >= 2500
    assert sum(fact["held_out"] for fact in known) / len(known) >= 0.95


def test_true_objects_are_likelier_than_new_ones(lm: LM, dataset: Dataset) -> None:
    records = [record for record in dataset.records if isinstance(record, CounterFactRecord)]
    queries = []
    for record in records:
        request = record.request
        prompts = [request.filled, *record.paraphrase_prompts, *record.neighborhood_prompts]
        queries += [Query(prompt, (request.target_new, str(request.target_true))) for prompt in prompts]
    right = 0
    for pair in score(lm, queries):
        assert isinstance(pair, tuple)
        new, true = pair
        assert isinstance(new, TargetScore)
        right += true.mean_nll < new.mean_nll
    assert right / len(queries) >= 0.97


@pytest.fixture(scope="module")
def runs(lm: LM, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    results = tmp_path_factory.mktemp("results")
    resources = Resources(second_moment_texts=load_texts("embedded"), cache=cache_folder())
    options = Options(generate=False)
    done = {}
    for name in ("identity", "ft", "ft_l", "rome", "r_rome"):
        spec = EDITORS.get(name)
        resolved = spec.resolve(lm.name, lm.n_layers)
        done[name] = evaluate(lm, spec, resolved, dataset, results, resources=resources, options=options)
    return done


def value(run: Run, metric: str) -> float:
    number = run.data["metrics"][metric]["value"]
    assert number is not None
    return float(number)


@pytest.mark.parametrize("mine", ["rome", "r_rome"])
@pytest.mark.parametrize("other", ["identity", "ft", "ft_l"])
def test_rome_beats_the_others_by_more_than_chance(runs: dict[str, Run], mine: str, other: str) -> None:
    differences, n = paired(runs[mine], runs[other])
    low = differences["S"].estimate.low
    assert n == RECORDS
    assert low is not None
    assert low > 0


def test_the_shape_of_table_4(runs: dict[str, Run]) -> None:
    unedited = runs["identity"]
    assert value(unedited, "ES") <= 10
    assert value(unedited, "NS") >= 95
    assert value(runs["ft"], "ES") >= 95
    assert value(runs["ft"], "NS") <= value(unedited, "NS") - 20
    assert value(runs["ft_l"], "NS") >= value(runs["ft"], "NS") + 10
    assert value(runs["ft_l"], "PS") <= value(runs["ft"], "PS") - 10
    for name in ("rome", "r_rome"):
        assert value(runs[name], "ES") >= 95
        assert value(runs[name], "PS") >= 80
        assert value(runs[name], "NS") >= 85


def test_every_edit_moved_something(runs: dict[str, Run]) -> None:
    for name in ("ft", "ft_l", "rome", "r_rome"):
        assert runs[name].data["n"]["failed"] == 0
        assert value(runs[name], "EM") > value(runs["identity"], "EM")


def test_its_texts_are_readable(lm: LM) -> None:
    data = data_folder()
    knowledge = read_knowledge(data)
    openings = {relation: language.openings for relation, language in knowledge.languages.items()}
    readable = judge(sample(lm, knowledge, openings), world_words(knowledge))
    assert readable.garbled < 0.01
    assert readable.repeated < 0.05
    unseen = judge(sample(lm, knowledge, load_generation_prompts(data / "prompts/generation")), world_words(knowledge))
    assert readable.garbled < unseen.garbled < 0.04


def test_the_edits_of_real_records(lm: LM, real_data: Path, tmp_path: Path) -> None:
    for source in (
        real_data / "counterfact" / "counterfact_100.json",
        real_data / "zsre" / "zsre_mend_eval_portability_gpt4.json",
    ):
        data = load_dataset(source, 12)
        spec = EDITORS.get("rome")
        resolved = spec.resolve(lm.name, lm.n_layers)
        resources = Resources(second_moment_texts=load_texts("embedded"), cache=cache_folder())
        run = evaluate(lm, spec, resolved, data, tmp_path, resources=resources, options=Options(generate=False))
        assert run.data["n"]["scored"] == 12
