"""The canary: a gentle edit is told from one that ruins the model, beside CounterFact's own scores."""

import json
from pathlib import Path

import pytest
import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.places import data_folder
from counterfact.core.records import Request
from counterfact.evaluation.benchmarks.canary import CanaryBlock, canary_divergence, ruined
from counterfact.evaluation.plain_texts import SAMPLE
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.language_model import LM
from tests.support.evaluating import counterfact, fake_spec, low_rank_edit, run_fake


def canary(folder: Path) -> Dataset:
    return load_dataset(counterfact(folder / "data", n=6, bad=()).path, benchmark="canary")


def gentle(lm: LM, request: Request, seed: int, _strength: float) -> Edit:
    """A change too small to matter for records of an even number, one that moves everything for the others."""
    return low_rank_edit(lm, request, seed, 1e-3 if request.id % 2 == 0 else 9.0)


def spoilt(lm: LM, request: Request, _seed: int, _strength: float) -> Edit:
    """A change to NaN."""
    return Edit((LowRank(lm.layout.fc_out(1), torch.full((1, 64), torch.nan), torch.ones(1, 32)),), (request.id,))


def test_the_sample_is_from_our_own_articles() -> None:
    lines = (data_folder() / "articles" / "articles.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert all(any(sentence in text for text in texts) for sentence in SAMPLE)


def test_gentle_edits_are_told_from_others(tmp_path: Path) -> None:
    run = run_fake(canary(tmp_path), tmp_path / "results", fake_spec(gentle))
    assert run.benchmark.name == "canary" and run.data["n"]["scored"] == 6
    for line in run.cases:
        CanaryBlock.model_validate({key: line["post"][key] for key in CanaryBlock.model_fields})
    moved = [canary_divergence(line["post"]) or 0.0 for line in run.cases]
    assert all(kl < 1e-3 for kl in moved[::2]) and all(kl > 1 for kl in moved[1::2])
    assert {run.data["pre"][name]["value"] for name in ("ruined", "canary_rise", "canary_kl")} == {0.0}


def test_scores_of_counterfact_are_its_own(tmp_path: Path) -> None:
    data = canary(tmp_path)
    watched = run_fake(data, tmp_path / "a", fake_spec(gentle))
    plain = run_fake(load_dataset(data.path), tmp_path / "b", fake_spec(gentle))
    for one, other in zip(watched.cases, plain.cases, strict=True):
        kept = {key: value for key, value in one["post"].items() if key != "canary_prompts_drifts"}
        assert kept == other["post"]


def test_a_model_without_numbers_is_ruined(tmp_path: Path) -> None:
    run = run_fake(canary(tmp_path), tmp_path / "results", fake_spec(spoilt), generate=False)
    assert run.data["metrics"]["ruined"]["value"] == 100.0
    assert run.data["metrics"]["canary_rise"]["value"] is None


@pytest.mark.parametrize(("times", "value"), [(9.9, 0.0), (10.1, 1.0)])
def test_ten_times_the_perplexity_is_the_bound(times: float, value: float) -> None:
    import math

    drifts = [{"nll": 2.0 + math.log(times) + off, "unedited_nll": 2.0, "kl": 1.0} for off in (-1.0, 1.0)]
    assert ruined({"canary_prompts_drifts": drifts}) == value
