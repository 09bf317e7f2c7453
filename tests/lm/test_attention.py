"""Rows after a constant prefix, by every way they can be computed, are the whole rows."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from counterfact.lm.forward import operators
from counterfact.lm.forward.blocks import embed, logits, run_blocks
from counterfact.lm.forward.caches import KV, KVRecorder, PrefixKV, padding_mask
from counterfact.lm.forward.operators import Operator, attention_and_sums, packed_linear, softmax_backward
from counterfact.lm.forward.products import packs_products
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.generation import generate
from counterfact.lm.model.language_model import LM
from tests.support.models import FAMILIES, rounding, tiny_lm

PREFIXES, EACH, TOKENS = 2, 3, 4
"""Prefixes, rows after each, tokens of a row."""


@pytest.fixture(params=["private", "public"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Private operators where this torch has them, then their public counterparts."""
    if request.param == "public":
        for operator in (attention_and_sums, softmax_backward, packed_linear):
            monkeypatch.setitem(vars(operator), "works", False)
    yield request.param


def prefixes(lm: LM, lengths: list[int]) -> tuple[list[list[int]], PrefixKV]:
    """Tokens of some prefixes, and their keys and values before rows of one group."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(2, lm.vocabulary, (len(lengths), max(lengths)), generator=drawn)
    recorder = KVRecorder()
    with torch.no_grad():
        run_blocks(lm, embed(lm, ids), 0, lm.n_layers, cache=recorder)

    def of(layer: int, _group: int) -> KV:
        return recorder.keys[layer], recorder.values[layer]

    mask = padding_mask(lengths, lm.device, torch.float64)
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    return rows, PrefixKV(of, [mask], padded=min(lengths) < max(lengths))


def close(lm: LM) -> dict[str, float]:
    return {"rtol": 0, "atol": rounding(lm.layout.family)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [[5, 5], [5, 2]], ids=["equal", "padded"])
def test_rows_that_share_a_prefix(family: str, lengths: list[int], kernel: str) -> None:
    lm = tiny_lm(family)
    before, prefix = prefixes(lm, lengths)
    rows = torch.randint(2, lm.vocabulary, (PREFIXES * EACH, TOKENS), generator=torch.Generator().manual_seed(1))
    positions = (torch.tensor(lengths).repeat_interleave(EACH)[:, None] + torch.arange(TOKENS)).view(1, -1)
    expected = {tail: one_by_one(lm, before, rows, tail) for tail in (TOKENS, 1)}
    for tail, gradient, held in product((None, 1), (False, True), (False, True)):
        states = embed(lm, rows.view(1, -1), positions).detach().requires_grad_(gradient)
        given = prefix.hold(range(lm.n_layers)) if held else prefix
        ragged = RaggedRows(RaggedLayout.of_groups([(len(rows), TOKENS)]), lm.device, given, tail)
        with torch.set_grad_enabled(gradient):
            found = logits(lm, run_blocks(lm, states, 0, lm.n_layers, positions=positions, rows=ragged))
        scores, slopes = expected[tail or TOKENS]
        torch.testing.assert_close(found[0], scores, **close(lm))
        if gradient:
            (slope,) = torch.autograd.grad(found.logsumexp(-1).sum(), states)
            torch.testing.assert_close(slope[0], slopes, **close(lm))


def one_by_one(lm: LM, before: list[list[int]], rows: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """Logits after the last tokens of whole rows, one row at a time, and the gradient at each row's first states."""
    scores, slopes = [], []
    for number, row in enumerate(rows.tolist()):
        start = before[number // EACH]
        states = embed(lm, torch.tensor([[*start, *row]])).detach().requires_grad_()
        scores.append(logits(lm, run_blocks(lm, states, 0, lm.n_layers)[0, -tail:]))
        slopes.append(torch.autograd.grad(scores[-1].logsumexp(-1).sum(), states)[0][0, len(start) :])
    return torch.cat(scores).detach(), torch.cat(slopes)


@pytest.mark.parametrize("operator", [attention_and_sums, softmax_backward, packed_linear])
def test_private_operators_give_what_public_ones_give(operator: Operator) -> None:
    if not operator.works:
        pytest.skip("this torch has no such operator")
    for found, expected in zip(
        operator.private(*operator.example()), operator.public(*operator.example()), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "private", [lambda *_: torch.ops.aten._no_such_operator(), lambda x, *_: (x + 3,), lambda *_: ()]
)
def test_an_operator_that_is_gone_or_has_changed_is_not_used(private: Any) -> None:
    operator = Operator(private, lambda x: (2 * x,), lambda: (torch.ones(2),))
    assert not operator.works
    assert torch.equal(operator(torch.ones(3))[0], 2 * torch.ones(3))


def test_without_private_operators_products_are_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gpt2", "float32")
    with_packing = generate(lm, ["The capital of Norway is"], [1], length=12)
    monkeypatch.setitem(vars(operators.packed_linear), "works", False)
    assert not packs_products(lm)
    assert generate(lm, ["The capital of Norway is"], [1], length=12) == with_packing
