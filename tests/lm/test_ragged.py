"""Rows that stand one after the other are the same rows: layouts, attention, edits, tails, in every family."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from counterfact.lm.edits import apply
from counterfact.lm.edits.apply import EditStack
from counterfact.lm.forward.blocks import embed, logits, run_blocks
from counterfact.lm.forward.caches import KVRecorder, RecordedKV
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.language_model import LM
from tests.lm.test_apply import one_by_one, some_edits
from tests.support.models import FAMILIES, rounding, tiny_lm

LENGTHS = (5, 3, 9, 1, 3, 5, 7)


def rows_of(lm: LM, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, lm.vocabulary, (n,), generator=generator).tolist() for n in lengths]


def run(lm: LM, rows: list[list[int]], tail: int | None = None) -> tuple[RaggedLayout, Tensor]:
    layout = RaggedLayout.of([len(row) for row in rows])
    ids, positions = torch.tensor([layout.flat(rows)]), torch.tensor([layout.counted()])
    ragged = RaggedRows(layout, lm.device, tail=tail)
    return layout, run_blocks(lm, embed(lm, ids, positions), 0, lm.n_layers, positions=positions, rows=ragged)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tail", [None, 1, 2])
def test_each_row_is_as_it_is_alone(family: str, tail: int | None) -> None:
    lm = tiny_lm(family)
    rows = rows_of(lm)
    layout, hidden = run(lm, rows, tail)
    found = logits(lm, hidden)[0]
    tokens = {token: i for i, token in enumerate(layout.tails(tail or max(LENGTHS)))}
    assert len(found) == sum(min(tail or n, n) for n in LENGTHS)
    for number, row in enumerate(rows):
        alone = lm.model(torch.tensor([row]), use_cache=False).logits[0]
        for i in range(max(0, len(row) - (tail or len(row))), len(row)):
            place = tokens[layout.starts[number] + i]
            torch.testing.assert_close(found[place], alone[i], rtol=0, atol=rounding(lm.layout.family))
    vars_left = [module for module in lm.model.modules() if "_attn" in vars(module)]
    assert not vars_left
    assert lm.model.config._attn_implementation == lm.layout.attention_kernel


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tail", [None, 2])
def test_edits_by_row_are_those_of_the_merged_model(family: str, tail: int | None) -> None:
    check_edits_by_row(family, tail)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("tail", [None, 2])
def test_edits_by_row_that_are_multiplied_together_are_too(
    family: str, tail: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "SHARED", 0)
    check_edits_by_row(family, tail)


def check_edits_by_row(family: str, tail: int | None) -> None:
    lm = tiny_lm(family)
    edits, owners = some_edits(lm), [2, 0, -1, 3, 1, 2, 4]
    rows = rows_of(lm)
    layout = RaggedLayout.of(LENGTHS)
    with EditStack(lm, edits).rows(owners, RaggedRows(layout, lm.device, tail=tail)):
        _, hidden = run(lm, rows, tail)
    last = {token: i for i, token in enumerate(layout.tails(tail or max(LENGTHS)))}
    for number, (row, owner) in enumerate(zip(rows, owners, strict=True)):
        alone = one_by_one(lm, edits, [owner], torch.tensor([row]))[0, -1]
        place = last[layout.starts[number] + len(row) - 1]
        torch.testing.assert_close(logits(lm, hidden[0, place]), alone, rtol=0, atol=rounding(lm.layout.family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("held", [False, True])
def test_a_prefix_stands_for_its_tokens_and_gradients_pass_by_it(family: str, held: bool) -> None:
    lm = tiny_lm(family)
    rows, cuts = rows_of(lm), [2, 0, 6, 0, 1, 2, 6]
    suffixes = RaggedLayout.of([len(row) - cut for row, cut in zip(rows, cuts, strict=True)])
    kept: list[RecordedKV] = []
    for row, cut in zip(rows, cuts, strict=True):
        recorder = KVRecorder()
        run_blocks(lm, embed(lm, torch.tensor([row[: max(cut, 1)]])), 0, lm.n_layers, cache=recorder)
        keys, values = ({layer: it[0] for layer, it in side.items()} for side in (recorder.keys, recorder.values))
        kept.append(RecordedKV(keys, values, [range(cut)]))
    # One row's tokens after the other's, in one table.
    counts = [next(iter(part.keys.values())).shape[1] for part in kept]
    begins = [sum(counts[:i]) for i in range(len(counts))]
    table = RecordedKV(
        *(
            {layer: torch.cat([side(part)[layer] for part in kept], 1) for layer in range(lm.n_layers)}
            for side in (lambda part: part.keys, lambda part: part.values)
        ),
        [range(begin, begin + cut) for begin, cut in zip(begins, cuts, strict=True)],
    )
    prefix = table.before(suffixes.members, torch.float64)
    prefix = prefix.hold(range(lm.n_layers)) if held else prefix
    ids = torch.tensor([suffixes.flat([row[cut:] for row, cut in zip(rows, cuts, strict=True)])])
    positions = torch.tensor([suffixes.counted(cuts)])
    ragged = RaggedRows(suffixes, lm.device, prefix)
    start = embed(lm, ids, positions).requires_grad_()
    hidden = run_blocks(lm, start, 0, lm.n_layers, positions=positions, rows=ragged)
    for number, row in enumerate(rows):
        end = suffixes.starts[number] + suffixes.lengths[number] - 1
        alone = lm.model(torch.tensor([row]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits(lm, hidden[0, end]), alone, rtol=0, atol=rounding(lm.layout.family))
    (gradient,) = torch.autograd.grad(hidden[0, suffixes.starts[2]].sum(), start)
    touched = gradient[0].abs().sum(1) > 0
    assert touched.nonzero()[:, 0].tolist() == [suffixes.starts[2]], "a row's first token sees nothing but its prefix"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_a_layout_holds_every_token_once_and_keeps_what_it_is_told(lengths: list[int], data: st.DataObject) -> None:
    layout = RaggedLayout.of(lengths)
    assert list(layout.lengths) == lengths
    assert sorted(layout.order) == list(range(len(lengths)))
    named = [[(row, i) for i in range(length)] for row, length in enumerate(lengths)]
    flat = layout.flat(named)  # type: ignore[arg-type]
    assert all(flat[layout.starts[row] + i] == (row, i) for row, length in enumerate(lengths) for i in range(length))
    assert layout.counted([10 * row for row in range(len(lengths))]) == [10 * row + i for row, i in flat]  # type: ignore[misc]
    tail = data.draw(st.integers(1, 6))
    assert [flat[token] for token in layout.tails(tail)] == [
        (row, i)
        for row, i in flat
        if i >= lengths[row] - tail  # type: ignore[misc]
    ]
    assert layout.cut(tail).tokens == len(layout.tails(tail))
    kept = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)).filter(any))
    rest = layout.keep(kept)
    numbers = [row for row, keep in enumerate(kept) if keep]
    assert rest.layout.lengths == tuple(lengths[row] for row in numbers)
    assert [flat[token] for token in rest.tokens.tolist()] == rest.layout.flat([named[row] for row in numbers])  # type: ignore[arg-type]
    for new, (old, places) in enumerate(zip(rest.groups, rest.places, strict=True)):
        mine = [layout.members[old][place] for place in places.tolist()]
        assert mine == [numbers[row] for row in rest.layout.members[new]]


def test_positions_are_asked_for() -> None:
    lm = tiny_lm()
    with pytest.raises(ValueError, match="need positions"):
        run_blocks(lm, torch.zeros(1, 3, lm.width), 0, 1, rows=RaggedRows(RaggedLayout.of([3]), lm.device))
