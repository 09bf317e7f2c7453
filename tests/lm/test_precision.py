"""Precision is a choice of a run: in force within it, put back after it, part of what the run is, refused elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.core.errors import BadInput
from counterfact.core.records import Request
from counterfact.core.settings import Resolved
from counterfact.editors.rome import Rome, RomeSettings
from counterfact.evaluation.harness import evaluate
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.precision import check_precision, float32_products
from counterfact.lm.planning.batch_plan import default_plan
from counterfact.lm.queries import Query, TargetScore
from counterfact.lm.scoring import score
from tests.support.editing import REQUESTS, Networks, edits_of, prepared, resources
from tests.support.evaluating import FakeSettings, counterfact, fake_spec, low_rank_edit, options
from tests.support.models import tiny_folder, tiny_lm

MATMUL: Any = torch.backends.cuda.matmul


def tf32_is_on() -> bool:
    """Whether float32 products on CUDA devices are TF32 now."""
    if not hasattr(MATMUL, "fp32_precision"):
        return bool(MATMUL.allow_tf32)
    chosen = MATMUL.fp32_precision
    return bool((torch.backends.fp32_precision if chosen == "none" else chosen) == "tf32")


@contextmanager
def chosen_before(name: str) -> Iterator[None]:
    """A process that chose a precision for itself."""
    old = MATMUL.fp32_precision
    MATMUL.allow_tf32 = name == "tf32"
    MATMUL.fp32_precision = name
    try:
        yield
    finally:
        MATMUL.allow_tf32 = old == "tf32"
        MATMUL.fp32_precision = old


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


def test_what_a_device_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match="tf32 products need a CUDA device, and the model is on cpu: leave --precision"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="tf32")
    with pytest.raises(BadInput, match="these weights are bfloat16: leave --precision out, or choose --dtype float32"):
        load_lm(tiny_folder("gpt2"), device="cpu", dtype="bfloat16", precision="tf32")
    with pytest.raises(BadInput, match="expected a precision among strict, tf32, got 'fast'"):
        load_lm(tiny_folder("gpt2"), device="cpu", precision="fast")  # type: ignore[arg-type]


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    with pytest.raises(BadInput, match=r"capability 8.0 or more, and Tesla T4 has 7.5"):
        check_precision("tf32", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    check_precision("tf32", torch.device("cuda"), torch.float32)


def test_a_run_has_its_precision_and_says_so(tmp_path: Path) -> None:
    seen: list[bool] = []

    def spying(lm: Any, request: Request, seed: int, strength: float) -> Edit:
        seen.append(tf32_is_on())
        return low_rank_edit(lm, request, seed, strength)

    data = counterfact(tmp_path / "data", 2, bad=())
    strict = tiny_lm("gpt2", "float32")
    fast = replace(strict, precision="tf32")
    folders = {}
    for lm in (strict, fast):
        with chosen_before("tf32"):  # nor does a run depend on what the process had chosen
            resolved = Resolved(FakeSettings(), "tests", {})
            done = evaluate(lm, fake_spec(spying), resolved, data, tmp_path / "r", options=options(generate=False))
            assert tf32_is_on()
        folders[done.data["model"]["dtype"]] = done.folder
    assert seen == [False, False, True, True]
    assert set(folders) == {"float32", "float32, tf32 products"} and len(set(folders.values())) == 2


def test_values_of_another_precision_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    strict = tiny_lm("gpt2", "float32")
    settings = RomeSettings(layer=1, steps=2, covariance=False)
    for lm in (strict, replace(strict, precision="tf32")):
        Rome(lm, settings, "rome", ("{}", "So. {}"), None, default_plan(lm), tmp_path)([[REQUESTS[0]]], 0)
    assert len(list(tmp_path.iterdir())) == 2


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


def nats_of(scores: Any) -> torch.Tensor:
    """Nats of the new object after each prompt."""
    assert all(isinstance(targets[0], TargetScore) for targets in scores)
    return torch.tensor([targets[0].mean_nll for targets in scores])


def test_solves_are_in_float64_whatever_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factored: list[torch.dtype] = []
    solved: list[torch.dtype] = []
    cholesky, solve = torch.linalg.cholesky_ex, torch.cholesky_solve
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda a: (factored.append(a.dtype), cholesky(a))[1])
    monkeypatch.setattr(torch, "cholesky_solve", lambda b, a: (solved.extend([b.dtype, a.dtype]), solve(b, a))[1])
    lm = tiny_lm("gpt2", "bfloat16")
    edits_of(prepared("rome", lm, resources(lm, tmp_path))(REQUESTS[:2], 0))
    assert {*factored, *solved} == {torch.float64} and factored and solved
