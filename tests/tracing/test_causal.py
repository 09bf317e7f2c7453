"""The fast causal trace: equal to the plain loop in every cell and family, and to the reference's numbers."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.lm.forward.products import fused_activations, packed_products, packs_products
from counterfact.lm.model.families import KERNEL
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm, wrap_lm
from counterfact.lm.planning.batch_plan import Plan
from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.cells import KINDS, SEVERED, Kind, Scan, window_of
from counterfact.tracing.corruption import Corruption, make_corruption
from counterfact.tracing.facts import BadFact, Fact, encode, is_known, read_facts
from counterfact.tracing.gradients import attribute
from tests.support import oracle_tracing as oracle
from tests.support.models import FAMILIES, IN_FLOAT32, tiny_lm

FACTS = (
    Fact(known_id=3, subject="Anna Ferrand", attribute="Lisbon", prompt="Anna Ferrand was born in"),
    Fact(known_id=4, subject="Norway", attribute="Oslo", prompt="The capital of Norway is"),
    Fact(known_id=5, subject="Bellweather Mills", attribute="Leeds", prompt="In the city of Bellweather Mills"),
)
SCAN = Scan((*KINDS, *SEVERED), window=2)


def corruption(lm: LM, code: str = "s3", **changes: Any) -> Corruption:
    return make_corruption(lm, code, subjects=[fact.subject for fact in FACTS], **{"samples": 3, **changes})


def traced(lm: LM, facts: tuple[Fact, ...] = FACTS, scan: Scan = SCAN, **arguments: Any) -> list[Traced]:
    found = trace(lm, facts, arguments.pop("noise", None) or corruption(lm), scan, **arguments)
    assert all(isinstance(one, Traced) for one in found), found
    return [one for one in found if isinstance(one, Traced)]


def plain(lm: LM, one: Traced, noise: Tensor, kind: Kind, window: int, replaced: bool = False) -> np.ndarray[Any, Any]:
    return np.array(
        [
            [
                oracle.score(
                    lm, one.prompt, noise, oracle.cell(lm, one.prompt, noise, kind, token, layer, window), replaced
                )
                for layer in range(lm.n_layers)
            ]
            for token in one.traces[kind].tokens
        ]
    )


def noise_of(lm: LM, one: Traced, noise: Corruption) -> Tensor:
    return noise.noise(one.fact.known_id, one.prompt.corrupted_end - one.prompt.begin, lm.width)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_every_kind_is_the_plain_loops(family: str) -> None:
    lm = tiny_lm(family)
    noise = corruption(lm)
    for one in traced(lm):
        assert abs(one.high - one.low) > 0.01, "a corruption that changes nothing shows nothing"
        drawn = noise_of(lm, one, noise)
        for kind in SCAN.kinds:
            atol = 1e-7 if family in IN_FLOAT32 else 1e-10  # its own attention is in float32
            np.testing.assert_allclose(one.traces[kind].scores, plain(lm, one, drawn, kind, 2), atol=atol)


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_each_kind_alone_is_the_same_as_beside_the_others(family: str) -> None:
    lm = tiny_lm(family)
    together = traced(lm)
    for kind in SCAN.kinds:
        for one, other in zip(together, traced(lm, scan=Scan((kind,), 2)), strict=True):
            np.testing.assert_allclose(other.traces[kind].scores, one.traces[kind].scores, atol=1e-12)
            np.testing.assert_allclose(other.traces[kind].spread, one.traces[kind].spread, atol=1e-12)


@pytest.mark.parametrize("window", [1, 3, 10])
def test_windows_of_any_width_are_the_plain_loops(window: int) -> None:
    lm = tiny_lm()
    for one in traced(lm, scan=Scan(("mlp", "attn"), window)):
        for kind in ("mlp", "attn"):
            drawn = noise_of(lm, one, corruption(lm))
            np.testing.assert_allclose(one.traces[kind].scores, plain(lm, one, drawn, kind, window), atol=1e-10)


@pytest.mark.parametrize(("code", "replaced"), [("u0.7", False), ("0.9", True), ("s2", True)])
def test_other_corruptions_hold_for_baseline_and_patched_runs_alike(code: str, replaced: bool) -> None:
    lm = tiny_lm("gpt_neox")
    noise = corruption(lm, code, replace=replaced)
    for one in traced(lm, noise=noise):
        drawn = noise_of(lm, one, noise)
        assert one.low == pytest.approx(oracle.score(lm, one.prompt, drawn, [], replaced), abs=1e-12)
        np.testing.assert_allclose(one.traces["mlp"].scores, plain(lm, one, drawn, "mlp", 2, replaced), atol=1e-10)


def test_an_extra_corrupted_token_and_severed_paths_at_any_token() -> None:
    lm = tiny_lm("llama")
    scan = Scan((*KINDS, *SEVERED), window=2, at=(1, 3))
    for one in traced(lm, FACTS[:2], scan, extra_token=True):
        assert one.prompt.corrupted_end == one.prompt.end + 1
        drawn = noise_of(lm, one, corruption(lm))
        for kind in scan.kinds:
            np.testing.assert_allclose(one.traces[kind].scores, plain(lm, one, drawn, kind, 2), atol=1e-10)
    assert isinstance(trace(lm, FACTS[2:], corruption(lm), scan, extra_token=True)[0], BadFact)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_states_and_severed_paths_begin_at_the_embedding_where_asked(family: str) -> None:
    lm = tiny_lm(family)
    scan = Scan(("state", *SEVERED), at="subject", embedding=True)
    for one, without in zip(traced(lm, scan=scan), traced(lm, scan=Scan(scan.kinds, at="subject")), strict=True):
        drawn = noise_of(lm, one, corruption(lm))
        for kind in scan.kinds:
            scores = one.traces[kind].scores
            np.testing.assert_allclose(scores[:, 1:], without.traces[kind].scores, atol=1e-12)
            for token, score in zip(one.traces[kind].tokens, scores[:, 0], strict=True):
                pairs = oracle.cell(lm, one.prompt, drawn, kind, token, -1, 2)
                assert score == pytest.approx(oracle.score(lm, one.prompt, drawn, pairs), abs=1e-12)


def test_restoring_the_last_state_gives_the_clean_probability_and_nothing_the_corrupted_one() -> None:
    lm = tiny_lm()
    for one in traced(lm):
        states = one.traces["state"].scores
        assert states[-1, -1] == pytest.approx(one.high, abs=1e-13)
        assert (states[:-1, -1] == one.low).all()
        assert (states[: one.prompt.begin] == one.low).all()
        drawn = noise_of(lm, one, corruption(lm))
        every = [oracle.restoring(lm, "state", 0, token) for token in range(len(one.prompt.ids))]
        assert oracle.score(lm, one.prompt, drawn, every) == pytest.approx(one.high, abs=1e-13)


def test_without_noise_every_cell_is_clean() -> None:
    lm = tiny_lm("qwen3")
    for one in traced(lm, noise=corruption(lm, "0")):
        for kind in SCAN.kinds:
            np.testing.assert_allclose(one.traces[kind].scores, one.high, atol=1e-12)
            np.testing.assert_allclose(one.traces[kind].spread, 0, atol=1e-12)


@pytest.mark.parametrize("plan", [Plan(tokens_per_batch=1, logit_rows=1), Plan(tokens_per_batch=30, logit_rows=7)])
def test_batches_of_any_size_and_facts_alone_or_together_agree(plan: Plan) -> None:
    lm = tiny_lm("gptj")
    together = traced(lm)
    alone = [one for fact in FACTS for one in traced(lm, (fact,), plan=plan)]
    for one, other in zip(together, alone, strict=True):
        assert one.low == pytest.approx(other.low, abs=1e-13)
        for kind in SCAN.kinds:
            np.testing.assert_allclose(one.traces[kind].scores, other.traces[kind].scores, atol=1e-12)
            np.testing.assert_allclose(one.traces[kind].spread, other.traces[kind].spread, atol=1e-12)


def test_a_bad_fact_costs_itself_and_says_why() -> None:
    lm = tiny_lm()
    long = FACTS[0].model_copy(update={"prompt": "Anna Ferrand " * 40})
    found = trace(lm, (FACTS[0], long, FACTS[1]), corruption(lm), Scan(("state",)))
    assert [type(one) for one in found] == [Traced, BadFact, Traced]
    assert isinstance(found[1], BadFact)
    assert "the model at most" in found[1].reason


@pytest.fixture
def failing() -> Iterator[LM]:
    """A model whose second block fails from its second call on."""
    lm = tiny_lm()
    calls = iter(range(100))

    def fail(output: Tensor) -> None:
        if next(calls) > 0:
            raise RuntimeError("broken in the middle")

    with hooked(lm.model, (Site(lm.layout.block(1)), fail)):
        yield lm


def test_no_hook_is_left_after_an_error(failing: LM) -> None:
    with pytest.raises(RuntimeError, match="broken in the middle"):
        trace(failing, FACTS, corruption(failing), SCAN)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in failing.model.modules())
    assert hooks == 1, "only the one that fails"
    assert failing.model.config._attn_implementation == "sdpa"
    assert not any(KERNEL in vars(module) for module in failing.model.modules())


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama"])
def test_single_precision_with_its_fused_products_is_near_double_and_leaves_nothing(family: str) -> None:
    lm = tiny_lm(family, "float32")
    for one, other in zip(traced(lm), traced(tiny_lm(family)), strict=True):
        for kind in SCAN.kinds:
            np.testing.assert_allclose(one.traces[kind].scores, other.traces[kind].scores, atol=1e-5)
    with packed_products(lm), fused_activations(lm):
        fused = ["forward" in vars(lm.model.get_submodule(lm.layout.mlp(0)).act)] if family != "llama" else []
    assert fused == ([] if family == "llama" else [packs_products(lm)])
    assert not any({"forward", "_attn"} & set(vars(module)) for module in lm.model.modules())


def test_a_fact_that_gives_nan_costs_itself() -> None:
    lm = tiny_lm("llama")
    model = deepcopy(lm.model)
    spoilt = set(encode(lm, FACTS[1]).ids) - set(encode(lm, FACTS[0]).ids) - set(encode(lm, FACTS[2]).ids)
    with torch.no_grad():
        model.get_input_embeddings().weight[sorted(spoilt)] = float("nan")
    broken = wrap_lm(model, lm.tokenizer, name="broken")
    found = trace(broken, FACTS, make_corruption(lm, "0.5", samples=3), Scan(("state",)))
    assert [type(one) for one in found] == [Traced, BadFact, Traced]
    assert isinstance(found[1], BadFact)
    assert "NaN" in found[1].reason
    whole = traced(lm, noise=make_corruption(lm, "0.5", samples=3), scan=Scan(("state",)))
    for one, other in zip(found, whole, strict=True):
        if isinstance(one, Traced):
            np.testing.assert_allclose(one.traces["state"].scores, other.traces["state"].scores, atol=1e-12)


def test_out_of_memory_halves_the_batch_and_costs_one_fact_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterfact.tracing import _sweep, causal

    lm, whole, largest = tiny_lm(), traced(tiny_lm()), 0

    def greedy(lm: LM, sites: Any, *rest: Any) -> Tensor:
        nonlocal largest
        largest = max(largest, len(sites))
        if len(sites) > 1:
            raise torch.OutOfMemoryError("too much")
        return _sweep.sweep(lm, sites, *rest)

    monkeypatch.setattr(causal, "sweep", greedy)
    for one, other in zip(whole, traced(lm), strict=True):
        np.testing.assert_allclose(one.traces["attn"].scores, other.traces["attn"].scores, atol=1e-12)
    assert largest > 1


def test_arguments_that_cannot_be_used_are_refused() -> None:
    lm = tiny_lm()
    with pytest.raises(BadInput, match="window of at least one layer, got 0"):
        trace(lm, FACTS, corruption(lm), Scan(window=0))
    with pytest.raises(BadInput, match="expected kinds among"):
        trace(lm, FACTS, corruption(lm), Scan(("states",)))  # type: ignore[arg-type]
    found = trace(lm, FACTS[:1], corruption(lm), Scan(("severed_mlp",), at=(99,)))
    assert isinstance(found[0], BadFact)
    assert "got 99" in found[0].reason


def test_windows_are_laid_as_the_reference_lays_them() -> None:
    assert [window_of(layer, 10, 48) for layer in (0, 20, 47)] == [(0, 5), (15, 25), (42, 48)]
    assert [window_of(layer, 3, 4) for layer in range(4)] == [(0, 2), (0, 3), (1, 4), (2, 4)]


def test_a_fact_is_the_same_whatever_is_traced_beside_it_in_single_precision() -> None:
    lm = tiny_lm("gpt2", "float32")
    for one, other in zip(traced(lm), [one for fact in FACTS for one in traced(lm, (fact,))], strict=True):
        np.testing.assert_allclose(one.traces["state"].scores, other.traces["state"].scores, atol=1e-5)


def test_golden_traces_of_the_reference(real_data: Path) -> None:
    golden = json.loads((real_data / "golden/causal_trace.json").read_text())
    arrays = np.load(real_data / "golden/causal_trace.npz")
    lm = load_lm(real_data / "golden/model", device="cpu")
    known = [fact for fact in read_facts(real_data / "known_1000/known_1000.json") if isinstance(fact, Fact)]
    facts = {fact.known_id: fact for fact in known}
    subjects = [fact.subject for fact in known]
    chosen = tuple(facts[expected["known_id"]] for expected in golden["facts"])
    noise = make_corruption(lm, "s3", subjects=subjects, one_seed=True)
    assert noise.scale == pytest.approx(golden["noise_std"], rel=1e-6)
    runs = {window: traced(lm, chosen, Scan((*KINDS, *SEVERED), window), noise=noise) for window in golden["windows"]}
    extra = traced(lm, chosen, Scan(("state",)), noise=noise, extra_token=True)
    bound = golden["uniform_bound"]
    uniform = traced(lm, chosen, Scan(("state",)), noise=make_corruption(lm, f"u{bound}", one_seed=True))
    for place, expected in enumerate(golden["facts"]):
        prefix, one = expected["prefix"], runs[10][place]
        last = one.prompt.end - 1
        assert one.prompt.ids == tuple(expected["input_ids"])
        assert [one.prompt.begin, one.prompt.end] == expected["subject_range"]
        assert one.answer == expected["answer_id"]
        found = {
            "state": one.traces["state"].scores,
            "ordinary_last_subject": one.traces["state"].scores[last],
            "severed_mlp_same_noise_independent": one.traces["severed_mlp"].scores[last],
            "severed_attn_same_noise_independent": one.traces["severed_attn"].scores[last],
            "extra_token_last_subject_plus1": extra[place].traces["state"].scores[last],
            f"state_uniform_{bound}": uniform[place].traces["state"].scores,
        }
        for window, run in runs.items():
            found |= {f"{kind}_w{window}": run[place].traces[kind].scores for kind in ("mlp", "attn")}
        for name, scores in found.items():
            np.testing.assert_allclose(scores, arrays[prefix + name], atol=1e-5, err_msg=prefix + name)
        numbers = (one.high, one.low, extra[place].low, uniform[place].low)
        names = ("high_score", "low_score", "low_score_extra_token", "low_score_uniform")
        assert numbers == pytest.approx([expected[name] for name in names], abs=1e-5)
        assert encode(lm, one.fact) == one.prompt


def test_a_fact_is_known_by_its_whole_attribute() -> None:
    """Not by its first token, which another attribute may begin with too."""
    lm, prompt = load_lm("factlm", device="cpu"), "Japan Cuts can be traced to a location at"
    known = Fact(known_id=0, subject="Japan Cuts", attribute="New York City", prompt=prompt)
    first, *rest = lm.target_tokens(known.attribute)
    other = known.model_copy(update={"known_id": 1, "attribute": "New Zealand"})
    assert rest and lm.target_tokens(other.attribute)[0] == first
    short = known.model_copy(update={"known_id": 2, "attribute": "Kenya"})
    facts = (known, other, short)
    assert [is_known(lm, fact) for fact in facts] == [True, False, False]
    assert [one.correct for one in traced(lm, facts, Scan(("state",)))] == [True, False, False]
    found = attribute(lm, facts, nodes=1)
    assert [not isinstance(one, BadFact) and one.correct for one in found] == [True, False, False]
