"""A plan follows from the model's shape and the memory it is given; memory that gives out costs time, no record."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import EDITORS
from counterfact.core.errors import BadInput
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.lm.forward.blocks import embed, run_blocks
from counterfact.lm.forward.caches import KVRecorder
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, Shape, default_plan, in_halves, is_out_of_memory, plan_for
from counterfact.lm.planning.memory import needs, plan_within
from tests.support.editing import resources
from tests.support.evaluating import LENGTH, counterfact, options
from tests.support.models import FAMILIES, tiny_lm

FACTLM = Shape("cpu", 6, 192, 768, 4096, 384, 6, 442368, 1728, 14_000_000, 4, True)
SMALL = Shape("cpu", 12, 768, 3072, 50257, 1536, 12, 7_077_888, 6912, 498_000_000, 4, True)
XL = Shape("cpu", 48, 1600, 6400, 50257, 3200, 25, 30_720_000, 14400, 6_230_000_000, 4, True)
XL_GPU = replace(XL, device="cuda", packs=False)
SPARE = 120
"""Tokens of a batch of one record of these tests; so many always fit."""
NO_ROOM = (
    torch.OutOfMemoryError("no room"),
    MemoryError("no room"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
)


def test_the_shape_of_a_model() -> None:
    lm = tiny_lm("gpt2", "float32")
    shape, config = Shape.of(lm), lm.model.config
    assert (shape.device, shape.layers, shape.width) == ("cpu", lm.n_layers, lm.width)
    assert (shape.inner, shape.token) == (config.n_inner, 2 * lm.width)
    assert shape.products == 4 * lm.width**2 + 2 * lm.width * config.n_inner
    assert shape.outputs == 5 * lm.width + config.n_inner
    assert shape.weights == sum(p.numel() for p in lm.model.parameters()) * 4
    assert shape.packs and not Shape.of(tiny_lm("gpt2")).packs


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_plan(family: str) -> None:
    lm = tiny_lm(family)
    shape = Shape.of(lm)
    assert default_plan(lm) == plan_for(shape)
    recorder = KVRecorder()
    run_blocks(lm, embed(lm, torch.tensor([[5]])), 0, 1, cache=recorder)
    assert shape.token == recorder.keys[0].numel() + recorder.values[0].numel()
    assert 0 < needs(shape, default_plan(lm)).total < 2e9


def test_plans_are_fixed_by_kind_of_device_and_size() -> None:
    assert plan_for(FACTLM) == Plan(2048, 320, 1024, 32, 2**30)
    assert plan_for(SMALL) == Plan(1365, 145, 166, 32, 2**30)
    assert plan_for(XL) == Plan(655, 40, 166, 26, 2**30)
    assert plan_for(XL_GPU) == Plan(32768, 640, 4096, 64, 2**35)
    assert plan_for(replace(XL, device="mps")).tokens_per_batch == 5242


@pytest.mark.parametrize("shape", [FACTLM, SMALL, XL, XL_GPU])
def test_less_memory_gives_smaller_batches_that_are_estimated_to_fit(shape: Shape) -> None:
    whole, before = needs(shape, plan_for(shape)), plan_for(shape)
    assert plan_within(shape, whole.total) == before
    sizes = ("tokens_per_batch", "generation_rows", "logit_rows", "chunk", "weight_memory")
    for share in (0.8, 0.6, 0.4, 0.2, 0.1):
        memory = whole.always + share * (whole.total - whole.always)
        try:
            plan = plan_within(shape, memory)
        except BadInput:
            break
        assert needs(shape, plan).total <= memory
        assert all(getattr(plan, name) <= getattr(before, name) for name in sizes)
        assert plan == plan_within(shape, memory)
        before = plan
    assert share < 0.8


def test_longer_texts_need_smaller_batches() -> None:
    memory = needs(SMALL, plan_for(SMALL)).total
    assert plan_within(SMALL, memory, length=1000).generation_rows < plan_within(SMALL, memory).generation_rows


def test_where_one_record_does_not_fit_the_plan_is_refused() -> None:
    with pytest.raises(BadInput, match=r"one record at a time .* of which .* are the model's, and --max-memory"):
        plan_within(XL, 8e9)


def test_what_memory_errors_look_like() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)
    assert all(map(is_out_of_memory, NO_ROOM))
    assert not is_out_of_memory(RuntimeError("shapes do not fit")) and not is_out_of_memory(ValueError("out of memory"))


def test_other_errors_are_not_taken_for_memory() -> None:
    def run(_rows: Any) -> None:
        raise RuntimeError("shapes do not fit")

    plan = Plan()
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves("score", [1, 2], run, plan)
    assert plan.splits == []


@contextmanager
def cramped(lm: LM, seed: int, often: float, most: int) -> Iterator[list[str]]:
    """Let memory give out: in any block for batches of more tokens than `most`, in any part of the model at random.

    What fits by the rule of these tests, one record at a time, always fits.
    """
    random, raised = Random(seed), list[str]()

    def refuse(_module: Any, given: tuple[Any, ...]) -> None:
        shape = given[0].shape
        rows, tokens = (shape[0], shape[0] * shape[1]) if len(shape) > 1 else (1, shape[0])
        if (rows > 1 or tokens > SPARE) and (tokens > most or random.random() < often):
            error = random.choice(NO_ROOM)
            raised.append(type(error).__name__)
            raise error

    layout = lm.layout
    names = [layout.embed, *map(layout.block, range(lm.n_layers)), *map(layout.mlp, range(lm.n_layers))]
    handles = [lm.model.get_submodule(name).register_forward_pre_hook(refuse) for name in names]
    try:
        yield raised
    finally:
        for handle in handles:
            handle.remove()


def run_editor(name: str, data: Dataset, results: Path, cache: Path) -> Run:
    """Evaluate an editor on the tiny model in float32."""
    lm, spec = tiny_lm("gpt2", "float32"), EDITORS.get(name)
    given = {"rome": ["layer=1", "steps=4"], "ft": ["layer=1", "steps=4"]}.get(name, [])
    resolved = spec.resolve(lm.name, lm.n_layers, given)
    return evaluate(lm, spec, resolved, data, results, resources=resources(lm, cache), options=options(plan=Plan()))


def check_equal(found: Run, wanted: Run) -> None:
    """No record is lost, and all say the same but for float tolerance."""
    assert found.data["n"] == wanted.data["n"]
    for mine, theirs in zip(found.cases, wanted.cases, strict=True):
        assert mine["case_id"] == theirs["case_id"] and ("error" in mine) == ("error" in theirs)
        if "post" in mine:
            assert mine["post"]["text"] == theirs["post"]["text"]
            pairs = zip(nats(mine["post"]), nats(theirs["post"]), strict=True)
            assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in pairs)


def nats(block: dict[str, Any]) -> list[float]:
    """All nats of a record."""
    prompts = [pair for name, pairs in block.items() if name.endswith("_probs") for pair in pairs]
    return [value for pair in prompts for value in pair.values()]


@pytest.mark.parametrize(("name", "seed"), [("rome", 1), ("rome", 2), ("ft", 3)])
def test_an_out_of_memory_at_random_loses_no_record(name: str, seed: int, tmp_path: Path) -> None:
    assert check_cramped(name, seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["rome", "ft"])
def test_many_out_of_memories_lose_no_record(name: str, tmp_path: Path) -> None:
    raised = [check_cramped(name, seed, tmp_path / str(seed)) for seed in range(40)]
    assert sum(count > 0 for count in raised) > 30  # a rare fault may not come up in a run


def check_cramped(name: str, seed: int, tmp_path: Path) -> int:
    """Evaluate in a memory that is as small and as moody as `seed` says; return how often it gave out."""
    data = counterfact(tmp_path / "data")
    wanted = run_editor(name, data, tmp_path / "roomy", tmp_path / "cache-roomy")
    random = Random(seed)
    most, often = random.choice([150, 300, 10**6]), random.choice([0.0, 0.01, 0.05])
    often = often or 0.002
    with cramped(tiny_lm("gpt2", "float32"), seed, often, most) as raised:
        found = run_editor(name, data, tmp_path / "cramped", tmp_path / "cache")
    check_equal(found, wanted)
    splits = found.data["environment"]["plan"]["splits"]
    before = json.loads((found.unedited_folder / "pre.json").read_text())["environment"]["plan"]["splits"]
    assert len(splits) + len(before) >= len(raised)
    assert wanted.data["environment"]["plan"]["splits"] == []
    assert {stage for stage, _ in splits} <= {"edit", "score", "generate"}
    return len(raised)


def test_an_editor_notes_its_halvings_in_the_run(tmp_path: Path) -> None:
    data = counterfact(tmp_path / "data")
    with cramped(tiny_lm("gpt2", "float32"), 0, 0.0, SPARE):
        found = run_editor("rome", data, tmp_path / "results", tmp_path / "cache")
    stages = {stage for stage, _ in found.data["environment"]["plan"]["splits"]}
    assert {"edit", "score"} <= stages
    again = run_editor("ft", data, tmp_path / "results", tmp_path / "cache")
    assert again.data["environment"]["plan"]["splits"] == []


def test_chunk_sizes_agree(tmp_path: Path) -> None:
    data, lm = counterfact(tmp_path / "data"), tiny_lm("gpt2", "float32")
    spec = EDITORS.get("rome")
    resolved = spec.resolve(lm.name, lm.n_layers, ["layer=1", "steps=4"])
    runs = []
    for chunk in (64, 7, 1):
        given = resources(lm, tmp_path / f"cache-{chunk}")
        chosen = options(plan=Plan(chunk=chunk))
        runs.append(evaluate(lm, spec, resolved, data, tmp_path / str(chunk), resources=given, options=chosen))
    for run in runs[1:]:
        check_equal(run, runs[0])


def test_a_run_within_a_memory_says_what_it_was_planned_for(tmp_path: Path) -> None:
    data, lm = counterfact(tmp_path / "data", 2, bad=()), tiny_lm("gpt2", "float32")
    spec = EDITORS.get("identity")
    need = needs(Shape.of(lm), default_plan(lm), LENGTH)
    chosen = options(plan=None, max_memory=(need.total + need.always) / 2)
    found = evaluate(lm, spec, spec.resolve(lm.name, lm.n_layers), data, tmp_path / "results", options=chosen)
    environment = found.data["environment"]
    assert environment["plan_needs_bytes"] <= chosen.max_memory < need.total
    assert environment["plan"]["generation_rows"] < default_plan(lm).generation_rows
