"""Scores are those of one unpadded row with a float64 softmax, however rows are batched, padded, shared or edited."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.planning.batch_plan import Plan, Split
from counterfact.lm.queries import Query, TargetScore, Unscored
from counterfact.lm.scoring import score
from tests.lm.test_apply import some_edits
from tests.lm.test_hooks import hooks
from tests.support.models import FAMILIES, rounding, tiny_lm

PROMPTS = (
    "The capital of Norway is",
    "Anna",
    "She said that the bridge, which was new, had been closed since",
    "What is the language of the people who live in Zürich?",
    "Harlan Reed works in the city of",
)
TARGETS = (" Oslo", "Lisbon", "Québec", "an engineer", "the northern harbour")
QUERIES = [Query(prompt, TARGETS[i % 3 : 3 + i % 3]) for i, prompt in enumerate(PROMPTS * 2)]
OWNERS = [-1, 0, 1, 2, 3, 3, 2, -1, 4, 1]


def plain(lm: LM, prompt: str, target: str) -> TargetScore:
    """One row, no padding, logits everywhere, softmax in float64."""
    before, ids = lm.prompt_tokens(prompt), lm.target_tokens(target)
    logits = lm.model(torch.tensor([before + ids]), use_cache=False).logits[0, len(before) - 1 : -1].double()
    nats = -logits.log_softmax(-1)[range(len(ids)), ids]
    return TargetScore(float(nats.sum()), len(ids), tuple((logits.argmax(-1) == torch.tensor(ids)).tolist()))


def agree(found: TargetScore | None, expected: TargetScore, tolerance: float) -> None:
    assert isinstance(found, TargetScore)
    assert found.nll == pytest.approx(expected.nll, abs=tolerance)
    assert (found.tokens, found.correct) == (expected.tokens, expected.correct)


def scores(result: list[tuple[TargetScore, ...] | Unscored]) -> list[TargetScore]:
    assert not any(isinstance(item, Unscored) for item in result)
    return [value for item in result if not isinstance(item, Unscored) for value in item]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_one_row_at_a_time(family: str) -> None:
    lm = tiny_lm(family)
    assert {len(lm.target_tokens(target)) for target in TARGETS} > {1}
    for query, found in zip(QUERIES, score(lm, QUERIES), strict=True):
        assert not isinstance(found, Unscored)
        for target, value in zip(query.targets, found, strict=True):
            agree(value, plain(lm, query.prompt, target), rounding(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_under_edits_are_those_of_the_merged_model(family: str) -> None:
    lm = tiny_lm(family)
    edits = some_edits(lm)
    for query, owner, found in zip(QUERIES, OWNERS, score(lm, QUERIES, OWNERS, edits), strict=True):
        assert not isinstance(found, Unscored)
        with merged(lm, [edits[owner]] if owner >= 0 else []):
            for target, value in zip(query.targets, found, strict=True):
                agree(value, plain(lm, query.prompt, target), 10 * rounding(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_before_all_prompts_of_an_edit_is_read_as_if_typed(family: str) -> None:
    lm = tiny_lm(family)
    weights = some_edits(lm)
    contexts = ("Anna moved to Oslo, where she works. Prompt: ", "", "", "A", "The bridge is new. Prompt: ")
    edits = [replace(edit, context=context) for edit, context in zip(weights, contexts, strict=True)]
    for query, owner, found in zip(QUERIES, OWNERS, score(lm, QUERIES, OWNERS, edits), strict=True):
        assert not isinstance(found, Unscored)
        context = contexts[owner] if owner >= 0 else ""
        with merged(lm, [weights[owner]] if owner >= 0 else []):
            for target, value in zip(query.targets, found, strict=True):
                agree(value, plain(lm, context + query.prompt, target), 10 * rounding(family))


def test_the_beginning_of_an_edits_prompts_is_run_once() -> None:
    lm, seen = tiny_lm(), 0

    def count(states: Tensor) -> Tensor:
        nonlocal seen
        seen += states.shape[1]
        return states

    context = "Anna moved to Oslo, where she works as an engineer. " * 3
    with hooked(lm.model, (Site(lm.layout.block(0), "in"), count)):
        score(lm, QUERIES[:5], [0] * 5, [Edit((), (0,), context=context)])
    rows = [lm.prompt_tokens(context + query.prompt) for query in QUERIES[:5]]
    assert seen < sum(map(len, rows)) / 2


def test_float32_scores_are_close_to_float64_ones() -> None:
    for found, expected in zip(
        scores(score(tiny_lm(dtype="float32"), QUERIES)), scores(score(tiny_lm(), QUERIES)), strict=True
    ):
        agree(found, expected, 1e-4)


@pytest.mark.parametrize("plan", [Plan(tokens_per_batch=1), Plan(tokens_per_batch=40), Plan(logit_rows=1)])
def test_batches_do_not_matter(plan: Plan) -> None:
    lm = tiny_lm(dtype="float32")
    edits = some_edits(lm)
    expected = scores(score(lm, QUERIES, OWNERS, edits))
    for one, other in zip(scores(score(lm, QUERIES, OWNERS, edits, plan=plan)), expected, strict=True):
        agree(one, other, 1e-4)
    backwards = scores(score(lm, QUERIES[::-1], OWNERS[::-1], edits, plan=plan)[::-1])
    for one, other in zip(backwards, expected, strict=True):
        agree(one, other, 1e-4)


def test_a_prompt_runs_once_for_all_targets_of_one_token() -> None:
    lm, seen = tiny_lm(), []
    singles = (" Oslo", " Lisbon", " the")
    assert all(len(lm.target_tokens(target)) == 1 for target in singles)
    with hooked(lm.model, (Site(lm.layout.block(0)), lambda h: seen.append(h.shape[:2]))):
        (together,) = score(lm, [Query(PROMPTS[0], singles)])
    assert seen == [(1, len(lm.prompt_tokens(PROMPTS[0])))]
    apart = score(lm, [Query(PROMPTS[0], (target,)) for target in singles])
    beside = score(lm, [Query(PROMPTS[0], (*singles, "the northern harbour"))])
    assert not isinstance(together, Unscored)
    for one, other, third in zip(together, scores(apart), scores(beside), strict=False):
        agree(one, other, 1e-12)
        agree(third, other, 1e-12)


def test_logits_are_computed_only_where_they_are_read() -> None:
    lm, seen = tiny_lm(), []
    with hooked(lm.model, (Site(lm.layout.head), lambda z: seen.append(z.shape[0]))):
        score(lm, [Query(PROMPTS[0], (" Oslo", " Lisbon")), Query(PROMPTS[2], ("the northern harbour",))])
    assert sum(seen) == 1 + len(lm.target_tokens("the northern harbour"))


def test_correct_means_the_likeliest_token_given_the_true_ones_before() -> None:
    lm = tiny_lm()
    before = lm.prompt_tokens(PROMPTS[0])
    first = int(lm.model(torch.tensor([before])).logits[0, -1].argmax())
    best = next(t for t in ("Oslo", "Lisbon", "Anna", "piano") if lm.target_tokens(t)[0] != first)
    (found,) = score(lm, [Query(PROMPTS[0], (best,))])
    assert not isinstance(found, Unscored)
    assert found[0].correct[0] is False
    agree(found[0], plain(lm, PROMPTS[0], best), 1e-9)


@pytest.mark.parametrize("kind", ["low", "whole"])
def test_nan_stays_in_its_row(kind: str) -> None:
    lm = tiny_lm()
    name = lm.layout.fc_out(1)
    spoilt = LowRank(name, torch.full((1, 64), torch.nan), torch.ones(1, 32))
    edits = [Edit((spoilt,), (0,)), *some_edits(lm)[1:]]
    queries = QUERIES if kind == "whole" else [Query(prompt, (" Oslo",)) for prompt in PROMPTS * 2]
    expected = score(lm, queries, [-1 if owner == 0 else owner for owner in OWNERS], edits)
    for owner, found, before in zip(OWNERS, score(lm, queries, OWNERS, edits), expected, strict=True):
        assert not isinstance(found, Unscored)
        assert not isinstance(before, Unscored)
        for one, other in zip(found, before, strict=True):
            if owner == 0:
                assert one.nll != one.nll
                assert not any(one.correct)
            else:
                agree(one, other, 1e-9)


def test_what_cannot_be_scored_says_why_and_costs_nothing_else() -> None:
    lm = tiny_lm("llama")
    long = Query("Anna Ferrand " * 40, ("Oslo",))
    length = len(lm.prompt_tokens(long.prompt))
    found = score(lm, [QUERIES[0], long, Query("Anna", ("Oslo", " ")), QUERIES[1], Query("", ("Oslo",))])
    assert found[1] == Unscored(f"prompt and target need {length} tokens, the model takes 64")
    assert found[2] == Unscored("the target is empty: ' '")
    for one, query in zip((found[0], found[3], found[4]), (QUERIES[0], QUERIES[1], Query("", ("Oslo",))), strict=True):
        assert not isinstance(one, Unscored)
        agree(one[0], plain(lm, query.prompt, query.targets[0]), 1e-9)
    assert score(tiny_lm(), [Query("", ("Oslo",))]) == [Unscored("the prompt has no tokens")]
    assert score(lm, []) == []
    with pytest.raises(ValueError, match="one edit index for each of 1 queries"):
        score(lm, QUERIES[:1], [])


def test_the_longest_row_that_fits_is_scored() -> None:
    lm = tiny_lm("mistral")
    prompt = "a" * 200
    ids = lm.prompt_tokens(prompt)
    while len(ids) > lm.max_length:
        prompt = prompt[:-1]
        ids = lm.prompt_tokens(prompt)
    assert len(ids) == lm.max_length == 48
    (found,) = score(lm, [Query(prompt, (" Oslo",))])
    assert not isinstance(found, Unscored)
    agree(found[0], plain(lm, prompt, " Oslo"), 1e-9)


def test_out_of_memory_halves_the_batch_and_is_noted() -> None:
    lm, plan = tiny_lm(), Plan()

    def small(hidden: Tensor) -> None:
        if hidden.shape[0] > 2 or hidden.shape[1] > 20:
            raise torch.OutOfMemoryError("no more")

    queries = [Query(prompt, (" Oslo",)) for prompt in PROMPTS]
    expected = score(lm, queries)
    with hooked(lm.model, (Site(lm.layout.block(1)), small)):
        found = score(lm, queries, plan=plan)
    assert plan.splits[0] == Split("score", len(queries))
    for query, one, other in zip(queries, found, expected, strict=True):
        if (length := len(lm.prompt_tokens(query.prompt))) > 20:
            assert one == Unscored(f"out of memory with one row of {length} tokens")
        else:
            assert not isinstance(one, Unscored)
            assert not isinstance(other, Unscored)
            agree(one[0], other[0], 1e-12)
    assert hooks(lm.model) == 0


def test_a_fault_in_the_model_leaves_no_hooks() -> None:
    lm = tiny_lm()

    def fault(_: Tensor) -> None:
        raise RuntimeError("in the model")

    with pytest.raises(RuntimeError), hooked(lm.model, (Site(lm.layout.block(2)), fault)):
        score(lm, QUERIES, OWNERS, some_edits(lm))
    assert hooks(lm.model) == 0


@pytest.fixture(scope="module")
def reference(real_data: Path) -> LM:
    return load_lm(real_data / "golden" / "model", device="cpu")


def test_probabilities_of_the_reference(reference: LM, real_data: Path) -> None:
    golden = json.loads((real_data / "golden" / "probabilities.json").read_text())
    known = {r["case_id"]: r for r in json.loads((real_data / "counterfact" / "counterfact_100.json").read_text())}
    queries: list[Query] = []
    expected: list[dict[str, float]] = []
    for entry in golden["records"]:
        record: dict[str, Any] = entry.get("record") or known[entry["case_id"]]
        rewrite = record["requested_rewrite"]
        targets = (rewrite["target_new"]["str"], rewrite["target_true"]["str"])
        prompts = {**record, "rewrite_prompts": [rewrite["prompt"].replace("{}", rewrite["subject"])]}
        for kind in ("rewrite", "paraphrase", "neighborhood", "attribute"):
            queries += [Query(prompt, targets) for prompt in prompts[f"{kind}_prompts"]]
            expected += entry[f"{kind}_prompts_probs"]
    found = score(reference, queries)
    for item, values in zip(found, expected, strict=True):
        assert not isinstance(item, Unscored)
        new, true = item
        assert new.mean_nll == pytest.approx(values["target_new"], abs=1e-4)
        assert true.mean_nll == pytest.approx(values["target_true"], abs=1e-4)


def test_token_accuracies_of_the_reference(reference: LM, real_data: Path) -> None:
    golden = json.loads((real_data / "golden" / "zsre.json").read_text())
    queries: list[Query] = []
    expected: list[tuple[bool, ...]] = []
    for entry in golden["records"]:
        source, values = entry["source"], entry["teacher_forced_on_ids"]
        for prompt, answer, kind in (
            (source["src"], source["answers"][0], "rewrite"),
            (source["rephrase"], source["answers"][0], "paraphrase"),
            (source["loc"] + "?", source["loc_ans"], "neighborhood"),
        ):
            queries.append(Query(prompt, (answer,)))
            expected.append(tuple(values[f"{kind}_prompts_correct"]))
    assert [value.correct for value in scores(score(reference, queries))] == expected
    assert any(any(values) for values in expected)
