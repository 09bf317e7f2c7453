"""What every registered metric keeps, so that a new one is tested before its author writes a test."""

import inspect
import random
from typing import Any

import pytest

from counterfact.contracts.benchmarks import BENCHMARKS
from counterfact.contracts.metrics import COMPOSITES, METRICS, Metric, metric
from counterfact.core.errors import BadInput
from counterfact.core.registry import Registry
from counterfact.statistics.summary import composites_of, summarise

BENCHMARKS.discover()
WHAT = ("probs", "correct", "shifts", "said", "choices", "drifts")
SORTS = ("rewrite", "paraphrase", "neighborhood", "neighborhood_plus", "attribute", "portability", "locality", "canary")


def random_block(rng: random.Random) -> dict[str, Any]:
    """A block with everything that any kind of record has."""
    block: dict[str, Any] = {"target_tokens": {"new": rng.randint(1, 4), "true": rng.randint(1, 4)}}
    for sort in SORTS:
        values = [rng.choice([rng.uniform(0, 30), 2.5, None]) for _ in range(2 * rng.randint(1, 10))]
        pairs = zip(values[::2], values[1::2], strict=True)
        block[f"{sort}_prompts_probs"] = [{"target_new": new, "target_true": true} for new, true in pairs]
        block[f"{sort}_prompts_correct"] = [rng.random() < 0.5 for _ in range(rng.randint(1, 10))]
        amounts = [rng.choice([rng.uniform(0, 9), None]) for _ in range(rng.randint(1, 10))]
        block[f"{sort}_prompts_shifts"] = [{"kl": kl, "published": kl and kl / 50_000} for kl in amounts]
        drifts = [rng.choice([(rng.uniform(0, 9), rng.uniform(0, 3)), (None, 1.0)]) for _ in range(4)]
        block[f"{sort}_prompts_drifts"] = [{"nll": nll, "unedited_nll": old, "kl": nll} for nll, old in drifts]
        texts = [rng.choice(["Oslo", "in Oslo, Norway", "elsewhere", None]) for _ in range(rng.randint(1, 10))]
        nats = [[rng.choice([rng.uniform(0, 9), 2.5, None]) for _ in range(rng.randint(2, 5))] for _ in range(4)]
        block[f"{sort}_prompts_choices"] = [{"total": each, "per_token": each} for each in nats]
        block[f"{sort}_prompts_said"] = [
            {"text": text, "answers": ["Oslo", "Christiania"], "unchanged": rng.random() < 0.5, "known": known}
            for text, known in zip(texts, rng.choices([True, False, None], k=len(texts)), strict=True)
        ]
    block |= {"ngram_entropy": rng.uniform(0, 8), "reference_score": rng.random(), "essence_score": rng.uniform(1, 99)}
    return {**block, "text": ["a text"] * 10}


def shuffled(block: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return {name: rng.sample(v, len(v)) if isinstance(v, list) else v for name, v in block.items()}


@pytest.mark.parametrize("name", [*METRICS, *COMPOSITES])
def test_the_docstring_defines_it(name: str) -> None:
    entry: Any = METRICS.get(name) if name in list(METRICS) else COMPOSITES.get(name)
    doc = inspect.cleandoc(entry.doc)
    assert len(doc.splitlines()[0]) > 30 and doc.splitlines()[0].endswith((".", ":"))
    assert ">>>" in doc, "a metric shows an example worked by hand"
    assert entry.unit and entry.better in {"higher", "lower", "neither"} and entry.paper
    assert isinstance(entry.definition, int) and entry.definition >= 1


@pytest.mark.parametrize("name", list(METRICS))
def test_nothing_gives_none(name: str) -> None:
    compute = METRICS.get(name).compute
    assert compute({}) is None
    empty: dict[str, Any] = {f"{sort}_prompts_{what}": [] for sort in SORTS for what in WHAT}
    texts: dict[str, Any] = {"ngram_entropy": None, "reference_score": None, "essence_score": None, "text": []}
    assert compute(empty | texts) is None
    assert compute({**empty, **texts, "target_tokens": {"new": 1, "true": 1}}) is None


@pytest.mark.parametrize("name", list(METRICS))
def test_the_order_of_prompts_does_not_matter(name: str) -> None:
    rng = random.Random(name)
    for _ in range(50):
        block = random_block(rng)
        assert METRICS.get(name).compute(shuffled(block, rng)) == METRICS.get(name).compute(block)


@pytest.mark.parametrize("name", list(METRICS))
def test_values_lie_in_the_declared_range_and_the_block_is_left_alone(name: str) -> None:
    entry = METRICS.get(name)
    low, high = entry.bounds
    rng = random.Random(name)
    for _ in range(50):
        block = random_block(rng)
        before = repr(block)
        value = entry.compute(block)
        assert repr(block) == before
        if value is not None:
            assert isinstance(value, float)
            assert (low is None or value >= low) and (high is None or value <= high)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_summary_holds_every_metric_of_its_benchmark_and_does_not_depend_on_order(name: str) -> None:
    kind = BENCHMARKS.get(name)
    rng = random.Random(1)
    blocks = [random_block(rng) for _ in range(20)]
    summary = summarise(blocks, kind)
    assert set(summary) == {m.symbol for m in kind.metrics} | {c.symbol for c in composites_of(kind)}
    again = summarise(rng.sample(blocks, 20), kind)
    for name, entry in summary.items():
        assert again[name].estimate.value == pytest.approx(entry.estimate.value)
        assert entry.as_json()["definition"] >= 1


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_benchmark_names_metrics_that_it_has(name: str) -> None:
    benchmark = BENCHMARKS.get(name)
    mine = {metric.symbol for metric in benchmark.metrics}
    assert set(benchmark.adopted_metrics) <= mine and "S" in benchmark.composites
    assert set(benchmark.composites) <= set(COMPOSITES)
    assert {part for parts in benchmark.composites.values() for part in parts} <= mine
    assert set(benchmark.shown) <= mine | set(benchmark.composites)
    assert benchmark.title and benchmark.paper and benchmark.version >= 1


def test_names() -> None:
    expected = {"ES", "EM", "PS", "PM", "NS", "NM", "AS", "AM", "RS", "GE", "essence"}
    totals = {f"{name}_total" for name in ("ES", "EM", "PS", "PM", "NS", "NM", "AS", "AM")}
    assert {m.symbol for m in BENCHMARKS.get("counterfact").metrics} >= expected | totals
    assert {m.symbol for m in BENCHMARKS.get("zsre").metrics} >= {"efficacy", "paraphrase", "specificity"}
    with pytest.raises(BadInput, match="Did you mean 'ES'"):
        METRICS.get("ESS")


def test_a_new_metric_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Metric] = Registry("metric", "metrics")
    registry._discovered = True
    monkeypatch.setattr("counterfact.contracts.metrics.METRICS", registry)

    @metric("texts", "texts", "neither", "none", "counterfact", bounds=(0.0, None), scale=1.0)
    def texts(block: Any) -> float | None:
        """How many texts there are."""
        return float(len(block["text"])) if "text" in block else None

    assert registry.get("texts").compute({"text": ["a", "b"]}) == 2.0
    with pytest.raises(ValueError, match="two metrics are named 'texts'"):
        metric("texts", "", "higher", "none", "counterfact")(texts)
