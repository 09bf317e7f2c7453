"""Precision is a choice of a run: in force within it, put back after it, part of what the run is, refused elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.editors import EDITORS, Resources, edit_singly
from counterfact.core.errors import BadInput
from counterfact.core.records import Request
from counterfact.core.settings import Resolved
from counterfact.editing.contexts import context_templates
from counterfact.editing.values import SearchCache
from counterfact.editors.rome import Rome, RomeSettings
from counterfact.evaluation.harness import evaluate
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward import operators
from counterfact.lm.forward.operators import bfloat16_units
from counterfact.lm.forward.products import fused_activations, packed_products
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.precision import check_precision, float32_products
from counterfact.lm.model.sites import weight_view
from counterfact.lm.moments.second_moment import second_moments
from counterfact.lm.planning.batch_plan import default_plan
from counterfact.lm.queries import Query, TargetScore
from counterfact.lm.scoring import score
from tests.support.editing import REQUESTS, TEXTS, Networks, change, edits_of, prepared, resources
from tests.support.evaluating import FakeSettings, counterfact, fake_spec, low_rank_edit, options
from tests.support.models import FAMILIES, tiny_folder, tiny_lm

MATMUL: Any = torch.backends.cuda.matmul
ON_CPU: Any = torch.backends.mkldnn.matmul
needs_units = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and bfloat16_units()),
    reason="this processor has no units that multiply bfloat16; on one with AVX512-BF16 or AMX the test runs",
)


def tf32_is_on() -> bool:
    """Whether float32 products on CUDA devices are TF32 now."""
    chosen = MATMUL.fp32_precision
    return bool((torch.backends.fp32_precision if chosen == "none" else chosen) == "tf32")


@contextmanager
def chosen_before(name: str) -> Iterator[None]:
    """A process that chose a precision for itself, on CUDA devices; by the newer switch."""
    with kept_switches():
        MATMUL.allow_tf32 = name == "tf32"
        MATMUL.fp32_precision = name
        yield


@contextmanager
def kept_switches() -> Iterator[None]:
    """Torch's switches as they are now, again after the block."""
    old = [(switch, switch.fp32_precision) for switch in (MATMUL, ON_CPU)]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for switch, name in old:
            switch.fp32_precision = name


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_a_precision_holds_within_its_block_only(before: str) -> None:
    with chosen_before(before):
        with float32_products("tf32"):
            assert tf32_is_on() and MATMUL.allow_tf32
        assert MATMUL.fp32_precision == before
        with float32_products("strict"):
            assert not tf32_is_on() and not MATMUL.allow_tf32
        with pytest.raises(KeyError), float32_products("tf32"):
            raise KeyError
        assert MATMUL.fp32_precision == before and MATMUL.allow_tf32 == (before == "tf32")


@pytest.mark.parametrize("precision", ["strict", "tf32", "bf16"])
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_what_the_older_switch_chose_is_put_back_and_not_in_force(precision: Any, before: str) -> None:
    with kept_switches():
        torch.set_float32_matmul_precision(before)
        chosen = MATMUL.fp32_precision, ON_CPU.fp32_precision
        with float32_products(precision):
            assert tf32_is_on() == (precision == "tf32") and ON_CPU.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == before
        assert (MATMUL.fp32_precision, ON_CPU.fp32_precision) == chosen


@pytest.mark.parametrize("precision", ["strict", "bf16"])
def test_a_process_that_lets_processors_round_does_not_change_a_run(precision: Any) -> None:
    with kept_switches():
        torch.set_float32_matmul_precision("highest")
        ON_CPU.fp32_precision = "bf16"  # now the older switch is contradicted, and torch refuses to read it
        with float32_products(precision):
            assert ON_CPU.fp32_precision == "ieee"
        assert ON_CPU.fp32_precision == "bf16"


def test_what_a_device_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match="tf32 products need a CUDA device, and the model is on cpu: leave --precision"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="tf32")
    with pytest.raises(BadInput, match="these weights are bfloat16: leave --precision out, or choose --dtype float32"):
        load_lm(tiny_folder("gpt2"), device="cpu", dtype="bfloat16", precision="tf32")
    with pytest.raises(BadInput, match="expected a precision among strict, tf32, bf16, got 'fast'"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="fast")  # type: ignore[arg-type]


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    with pytest.raises(BadInput, match=r"capability 8.0 or more, and Tesla T4 has 7.5"):
        check_precision("tf32", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    check_precision("tf32", torch.device("cuda"), torch.float32)


def test_bf16_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="bf16 is a precision of float32 products, and these weights are float64"):
        load_lm(tiny_folder("gpt2"), device="cpu", dtype="float64", precision="bf16")
    with pytest.raises(BadInput, match="need a processor, and the model is on cuda: choose --precision tf32 or"):
        check_precision("bf16", torch.device("cuda"), torch.float32)
    with pytest.raises(BadInput, match="need a processor, and the model is on mps: leave --precision out"):
        check_precision("bf16", torch.device("mps"), torch.float32)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setitem(vars(operators.rounded_linear), "works", False)
    with pytest.raises(BadInput, match=r"bf16 products need oneDNN, which torch .* lacks here"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(BadInput, match=r"units for them \(AVX512-BF16 or AMX\), and this one has none: leave"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="bf16")
    # Nor is a run that was promised bf16 products computed in others.
    with pytest.raises(BadInput, match="and this one has none"), packed_products(in_bf16("gpt2")):
        pass


def in_bf16(family: str) -> LM:
    """A tiny model whose products are to be in bf16."""
    return replace(tiny_lm(family, "float32"), precision="bf16")


@needs_units
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products_of_blocks_are_rounded_and_the_output_layer_is_not(family: str, rows: int) -> None:
    lm, draw = in_bf16(family), torch.Generator().manual_seed(0)
    inner, head = find_module(lm.model, lm.layout.fc_out(0)), lm.model.get_output_embeddings()
    for module, weight in ((inner, weight_view(lm.model, lm.layout.fc_out(0))), (head, head.weight.T)):
        states = torch.randn(rows, len(weight), generator=draw)
        bias = torch.zeros(()) if module.bias is None else module.bias
        with packed_products(lm):
            found = module(states)
        assert found.dtype == torch.float32
        exact = states.double() @ weight.double() + bias.double()
        if module is head:
            assert off(found, exact) < 1e-6
            continue
        assert 1e-4 < off(found, exact) < 1e-2
        # Factors are rounded, the sum is not, and the result is once more.
        expected = states.bfloat16().double() @ weight.bfloat16().double() + bias.double()
        torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)


@needs_units
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_bf16_are_near_the_strict_ones(family: str) -> None:
    strict, rounded = tiny_lm(family, "float32"), in_bf16(family)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        exact = strict.model(ids).logits
        with fused_activations(rounded):
            found = rounded.model(ids).logits
        assert 1e-4 < off(found, exact) < 3e-2
        # Afterwards, and in a strict block, nothing is left of it.
        assert torch.equal(rounded.model(ids).logits, exact)
        with packed_products(strict):
            assert off(strict.model(ids).logits, exact) < 1e-5


@needs_units
def test_gradients_are_products_in_bf16_too() -> None:
    lm, draw = in_bf16("gpt2"), torch.Generator().manual_seed(0)
    module, weight = find_module(lm.model, lm.layout.fc_out(0)), weight_view(lm.model, lm.layout.fc_out(0)).double()
    states = torch.randn(9, len(weight), generator=draw).requires_grad_()
    slopes = torch.randn(9, lm.width, generator=draw)
    with packed_products(lm):
        found = module(states)
    (gradient,) = torch.autograd.grad(found, states, slopes)  # out of the block, as in training
    assert gradient.dtype == torch.float32 and 1e-4 < off(gradient, slopes.double() @ weight.T) < 1e-2
    expected = slopes.bfloat16().double() @ weight.bfloat16().double().T
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-8, atol=1e-5)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to the norm."""
    return float((found - expected).norm() / expected.norm())


@needs_units
@pytest.mark.parametrize("engine", ["batched", "plain"])
def test_an_edit_in_bf16_is_its_own_and_near_the_strict_one(engine: Any, tmp_path: Path) -> None:
    settings = RomeSettings(layer=1, steps=5, covariance=False)
    found = {}
    for lm in (tiny_lm("gpt2", "float32"), in_bf16("gpt2")):
        given = Resources(context_templates=("{}", "So. {}"), cache=tmp_path, engine=engine)
        with packed_products(lm):
            [edited] = EDITORS.get("rome").prepare(lm, settings, given)([REQUESTS[:1]], 0)
        [delta] = edited.edit.deltas if edited.edit is not None else ()
        assert isinstance(delta, LowRank)
        found[lm.precision] = delta.weight_change
    assert 1e-4 < off(found["bf16"], found["strict"]) < 0.2


@needs_units
def test_second_moments_are_in_the_precision_and_contexts_are_shared(tmp_path: Path) -> None:
    moments, contexts = {}, {}
    for lm in (tiny_lm("gpt2", "float32"), in_bf16("gpt2")):
        [moment] = second_moments(lm, [1], TEXTS, folder=tmp_path).values()
        moments[lm.precision] = moment.matrix
        contexts[lm.precision] = context_templates(lm, Resources(cache=tmp_path / lm.precision), (10,), 2)
    assert 1e-5 < off(moments["bf16"], moments["strict"]) < 1e-2
    assert contexts["bf16"] == contexts["strict"]


def test_a_run_has_its_precision_and_says_so(tmp_path: Path) -> None:
    seen: list[bool] = []

    def spying(lm: Any, request: Request, seed: int, strength: float) -> Edit:
        seen.append(tf32_is_on())
        return low_rank_edit(lm, request, seed, strength)

    data = counterfact(tmp_path / "data", 2, bad=())
    strict = tiny_lm("gpt2", "float32")
    kinds = ("strict", "tf32", *(["bf16"] if bfloat16_units() else []))
    folders = {}
    for lm in (replace(strict, precision=kind) for kind in kinds):
        with chosen_before("tf32"):  # nor does a run depend on what the process had chosen
            resolved = Resolved(FakeSettings(), "tests", {})
            done = evaluate(lm, fake_spec(spying), resolved, data, tmp_path / "r", options=options(generate=False))
            assert tf32_is_on()
        folders[done.data["model"]["dtype"]] = done.folder
    assert seen[:4] == [False, False, True, True] and not any(seen[4:])
    assert set(folders) == {"float32", *(f"float32, {kind} products" for kind in kinds[1:])}
    assert len(set(folders.values())) == len(kinds)


def test_values_of_another_precision_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    strict = tiny_lm("gpt2", "float32")
    settings = RomeSettings(layer=1, steps=2, covariance=False)
    cache = SearchCache(tmp_path, "batched")
    for lm in (strict, replace(strict, precision="tf32")):
        Rome(lm, settings, "rome", ("{}", "So. {}"), None, default_plan(lm), cache)([[REQUESTS[0]]], 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_values_of_an_edited_model_neither_come_from_the_cache_nor_go_there(tmp_path: Path) -> None:
    lm, settings = tiny_lm("gpt2", "float32"), RomeSettings(layer=1, steps=2, covariance=False)
    rome = Rome(lm, settings, "rome", ("{}", "So. {}"), None, default_plan(lm), SearchCache(tmp_path, "batched"))
    [unedited] = edits_of(edit_singly(rome, REQUESTS[:1], 0))
    with merged(lm, [unedited]):
        [edited] = edits_of(edit_singly(rome, REQUESTS[:1], 0))
    assert len(list(tmp_path.iterdir())) == 1
    assert float((change(edited) - change(unedited)).norm()) > 0.01 * float(change(unedited).norm())


EDITED = ("rome", "ft", "ft_l", "kn", "ke", "mend")


@pytest.mark.parametrize("name", EDITED)
def test_an_edit_of_a_bfloat16_model_is_near_the_float32_one(name: str, tmp_path: Path) -> None:
    queries = [Query(request.filled, (request.target_new,)) for request in REQUESTS]
    nats, before = {}, {}
    for dtype in ("float32", "bfloat16"):
        lm = tiny_lm("gpt2", dtype)  # type: ignore[arg-type]
        given = resources(lm, tmp_path, networks=Networks(tiny_lm("gpt2", "float32")))
        edits = edits_of(prepared(name, lm, given)(REQUESTS, 0))
        for delta in (delta for edit in edits for delta in edit.deltas):
            tensors = [value for value in vars(delta).values() if isinstance(value, torch.Tensor)]
            assert {tensor.dtype for tensor in tensors} == {torch.float32}
        nats[dtype] = nats_of(score(lm, queries, range(len(edits)), edits))
        before[dtype] = nats_of(score(lm, queries))
    moved = (nats["float32"] - before["float32"]).abs().mean()
    drift = (nats["bfloat16"] - nats["float32"]).abs().mean()
    assert drift < 0.1 * moved + (before["bfloat16"] - before["float32"]).abs().mean()


def test_an_edit_of_a_bfloat16_model_does_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "bfloat16")
    rome = prepared("rome", lm, resources(lm, tmp_path))
    together = edits_of(rome(REQUESTS, 0))
    for request, edit in zip(REQUESTS, together, strict=True):
        [alone] = edits_of(rome([request], 0))
        assert float((change(edit) - change(alone)).norm() / change(alone).norm()) < 1e-4


def nats_of(scores: Any) -> torch.Tensor:
    """Nats of the new object after each prompt."""
    assert all(isinstance(targets[0], TargetScore) for targets in scores)
    return torch.tensor([targets[0].mean_nll for targets in scores])


def test_solves_are_in_float64_whatever_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factored: list[torch.dtype] = []
    solved: list[torch.dtype] = []
    cholesky, solve = torch.linalg.cholesky_ex, torch.linalg.solve_triangular
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda a: (factored.append(a.dtype), cholesky(a))[1])
    monkeypatch.setattr(
        torch.linalg, "solve_triangular", lambda a, b, **how: (solved.extend([b.dtype, a.dtype]), solve(a, b, **how))[1]
    )
    lm = tiny_lm("gpt2", "bfloat16")
    edits_of(prepared("rome", lm, resources(lm, tmp_path))(REQUESTS[:2], 0))
    assert {*factored, *solved} == {torch.float64} and factored and solved
