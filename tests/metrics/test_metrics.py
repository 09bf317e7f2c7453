"""Metrics: values worked by hand, and those of the reference implementation on real texts."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.metrics import METRICS
from counterfact.core.records import ReferenceTexts
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT, CounterFactRecord, essence_text
from counterfact.evaluation.benchmarks.zsre import ZSRE
from counterfact.lm.drift import perplexity
from counterfact.metrics.consistency import ReferenceScorer, cosine, fit_vectoriser, join_vector
from counterfact.metrics.fluency import generation_entropy, n_gram_entropy, text_entropy
from counterfact.metrics.score import harmonic_mean
from counterfact.statistics.summary import blocks_of, paired_differences, summarise


def probs(*pairs: tuple[float | None, float | None]) -> list[dict[str, float | None]]:
    return [{"target_new": new, "target_true": true} for new, true in pairs]


BLOCK = {
    "rewrite_prompts_probs": probs((math.log(2), math.log(4))),
    "paraphrase_prompts_probs": probs((math.log(4), math.log(2)), (math.log(2), math.log(16))),
    "neighborhood_prompts_probs": probs((1.0, 1.0), (math.log(8), math.log(2)), (0.0, 5.0), (None, 1.0)),
    "attribute_prompts_probs": probs((math.log(2), math.log(4))),
    "target_tokens": {"new": 3, "true": 1},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ES", 1.0),
        ("EM", 1 / 2 - 1 / 4),
        ("PS", 0.5),
        ("PM", ((1 / 4 - 1 / 2) + (1 / 2 - 1 / 16)) / 2),
        ("NS", 1 / 4),
        ("NM", (0 + (1 / 2 - 1 / 8) + (math.exp(-5) - 1)) / 3),
        ("AS", 1.0),
        ("AM", 1 / 4),
        ("ES_total", 0.0),
        ("EM_total", 1 / 8 - 1 / 4),
        ("PS_total", 0.5),
        ("NS_total", 0.5),
        ("AS_total", 0.0),
    ],
)
def test_by_hand(name: str, expected: float) -> None:
    assert METRICS.get(name).compute(BLOCK) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["ES", "PS", "NS", "AS", "ES_total", "NS_total"])
@pytest.mark.parametrize("pair", [(1.0, 1.0), (None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.nan), (None, None)])
def test_ties_and_missing_numbers_are_failures(name: str, pair: tuple[float, float]) -> None:
    block = {f"{sort}_prompts_probs": probs(pair) for sort in ("rewrite", "paraphrase", "neighborhood", "attribute")}
    assert METRICS.get(name).compute({**block, "target_tokens": {"new": 1, "true": 1}}) == 0.0


@pytest.mark.parametrize("name", ["EM", "PM", "NM", "AM"])
def test_a_magnitude_leaves_out_what_is_no_number(name: str) -> None:
    pairs = probs((None, 1.0), (math.log(2), math.log(2)))
    block = {f"{sort}_prompts_probs": pairs for sort in ("rewrite", "paraphrase", "neighborhood", "attribute")}
    assert METRICS.get(name).compute(block) == 0.0


def test_totals_equal_means_where_targets_are_one_token() -> None:
    block = {**BLOCK, "target_tokens": {"new": 1, "true": 1}}
    for name in METRICS:
        if name.endswith("_total"):
            assert METRICS.get(name).compute(block) == METRICS.get(name.removesuffix("_total")).compute(block)


def test_the_papers_arithmetic() -> None:
    # The S of two rows of the paper's Table 4, and the half-width of the unedited ES.
    assert float(harmonic_mean([22.2, 24.7, 78.1])) == pytest.approx(30.5, abs=0.05)
    assert float(harmonic_mean([100.0, 96.4, 75.4])) == pytest.approx(89.2, abs=0.05)
    blocks = [{"rewrite_prompts_probs": probs((0.0, 1.0) if i < 1665 else (1.0, 0.0))} for i in range(7500)]
    estimate = summarise(blocks, COUNTERFACT)["ES"].estimate
    assert estimate.value == pytest.approx(22.2)
    assert estimate.half is not None and round(estimate.half, 1) == 0.9


def test_s_is_made_of_means_and_missing_where_a_part_is() -> None:
    both = {"paraphrase_prompts_probs": probs((0.0, 1.0)), "neighborhood_prompts_probs": probs((1.0, 0.0))}
    good = {**both, "rewrite_prompts_probs": probs((0.0, 1.0))}
    bad = {**both, "rewrite_prompts_probs": probs((1.0, 0.0))}
    # Means 1/2, 1, 1; the mean of per-record S would be 1/2.
    assert summarise([good, bad], COUNTERFACT)["S"].estimate.value == pytest.approx(100 * 3 / 4)
    assert summarise([bad], COUNTERFACT)["S"].estimate.value == 0.0
    missing = summarise([both], COUNTERFACT)["S"].estimate
    assert (missing.value, missing.low, missing.high) == (None, None, None)
    assert summarise([], COUNTERFACT)["S"].estimate.n == 0


def test_zsre_metrics_and_s() -> None:
    block = {
        "rewrite_prompts_correct": [True, True],
        "paraphrase_prompts_correct": [True, False],
        "neighborhood_prompts_correct": [False, False, True, False],
    }
    summary = summarise([block], ZSRE)
    assert {name: entry.estimate.value for name, entry in summary.items()} == pytest.approx(
        {"S": 100 * 3 / (1 + 2 + 4), "efficacy": 100.0, "paraphrase": 50.0, "specificity": 25.0}
    )


def test_blocks_carry_target_tokens_and_pass_over_errors() -> None:
    lines = [{"case_id": 1, "error": {}}, {"case_id": 2, "target_tokens": {"new": 1, "true": 2}, "post": {"x": 1}}]
    assert blocks_of(lines, "post") == [{"x": 1, "target_tokens": {"new": 1, "true": 2}}]
    assert blocks_of(lines, "pre") == []


def test_paired_differences_use_only_records_that_both_have() -> None:
    first = [{"ngram_entropy": value} for value in (5.0, None, 6.0)]
    second = [{"ngram_entropy": value} for value in (4.0, 1.0, 4.0)]
    estimate = paired_differences(first, second, COUNTERFACT)["GE"].estimate
    assert (estimate.value, estimate.n) == (pytest.approx(150.0), 2)


def test_entropy_by_hand() -> None:
    words = ["a", "b", "a", "b", "c"]  # ab 2, ba 1, bc 1; aba, bab, abc
    assert n_gram_entropy(words, 2) == pytest.approx(1.5)
    assert n_gram_entropy(words, 3) == pytest.approx(math.log2(3))
    assert text_entropy("a b a b c") == pytest.approx((1.5 + 2 * math.log2(3)) / 3)
    assert [text_entropy(text) for text in ("", "one", "one two")] == [0.0, 0.0, 0.0]
    assert generation_entropy(["a b a b c", ""]) == pytest.approx((1.5 + 2 * math.log2(3)) / 6)
    assert generation_entropy([]) is None


def references(*entries: tuple[str, str, list[str]]) -> ReferenceTexts:
    return ReferenceTexts(
        {"relation_id": r, "target_id": t, "samples": [{"name": f"{t}-{i}", "text": x} for i, x in enumerate(texts)]}
        for r, t, texts in entries
    )


def test_reference_scores_and_why_there_is_none() -> None:
    scorer = ReferenceScorer(references(("P1", "Q1", ["red apples", "ripe apples"]), ("P1", "Q2", ["wet ground"])))
    assert scorer.score(["red apples ripe apples"], "P1", "Q1") == pytest.approx(1.0)
    assert scorer.score(["red", "apples", "ripe", "apples"], "P1", "Q1") == pytest.approx(1.0)
    assert scorer.score(["nothing known here"], "P1", "Q1") == 0.0
    assert scorer.score(["wet"], "P1", "Q3") is None
    assert scorer.score(["wet"], None, "Q2") is None
    assert scorer.score([], "P1", "Q2") is None
    assert ReferenceScorer(references()).score(["wet"], "P1", "Q2") is None
    assert ReferenceScorer(references(("P1", "Q1", ["- -"]))).score(["wet"], "P1", "Q1") is None


def about(subject: str) -> CounterFactRecord:
    rewrite = {"prompt": "{} is", "relation_id": "P1", "subject": subject, "target_true": {"str": "a"}}
    value = {"case_id": 0, "requested_rewrite": {**rewrite, "target_new": {"str": "b", "id": "Q1"}}}
    prompts = ("paraphrase", "neighborhood", "attribute", "generation")
    return CounterFactRecord.model_validate({**value, **{f"{sort}_prompts": [] for sort in prompts}})


def test_essence_by_hand() -> None:
    texts = ReferenceTexts(
        [{"relation_id": "P1", "target_id": "Q1", "samples": [{"name": "Ada", "text": t} for t in ("one.", "two.")]}]
    )
    assert essence_text(about("Ada"), texts) == "one. two."
    assert essence_text(about("Bob"), texts) is None
    assert essence_text(about("Ada"), ReferenceTexts([])) is None
    assert perplexity([1.0]) == pytest.approx(math.exp(0.5))
    assert perplexity([math.nan]) is None
    assert perplexity([1e6]) is None


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_entropy_of_the_reference(real_data: Path) -> None:
    golden = load(real_data / "golden" / "entropy.json")["records"]
    generations = {entry["fname"]: entry for entry in load(real_data / "counterfact" / "generations_40.json")}
    assert len(golden) == 40
    for record in golden:
        for system, expected in record["systems"].items():
            texts = generations[record["fname"]][system]
            each = [text_entropy(text) for text in texts]
            assert each == pytest.approx(expected["texts_punkt_default_split"], abs=1e-9)
            assert sum(each) / len(each) == pytest.approx(expected["punkt_default_split"], abs=1e-9)
        assert generation_entropy(texts) == pytest.approx(expected["punkt_default_split"], abs=1e-9)


def test_reference_score_of_the_reference(real_data: Path) -> None:
    golden = load(real_data / "golden" / "reference_score.json")
    lines = (real_data / "wikitext" / "wikitext-2.test.txt").read_text(encoding="utf-8").split("\n")
    numbers = golden["corpus"]["line_numbers"]
    assert all(a < b for a, b in pairwise(numbers))
    vectoriser = fit_vectoriser(lines[number - 1] for number in numbers)
    assert vectoriser is not None
    assert len(vectoriser.vocabulary_) == golden["vocabulary_size"]
    for one in golden["sets"]:
        vectors = [join_vector(vectoriser, one[name]) for name in ("generated_texts", "reference_texts")]
        assert cosine(*vectors) == pytest.approx(one["cosine"], abs=1e-9)
