"""The closed form of many keys, whichever system is solved; what follows from a second moment is kept on disk."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterfact.contracts.editors import Resources
from counterfact.editing.mass_edits import layer_moments
from counterfact.editing.ridge import ridge_factor
from counterfact.editors.alphaedit import null_space
from counterfact.lm.moments import second_moment, solving
from counterfact.lm.moments.second_moment import SecondMoment, second_moments
from tests.support.editing import TEXTS, moment, resources
from tests.support.models import tiny_lm

WEIGHT = 0.7


def drawn(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_definition(whole: Tensor, given: SecondMoment | None) -> Tensor:
    metric = torch.eye(whole.shape[1]).double() if given is None else given.matrix
    return torch.linalg.solve(WEIGHT * metric + whole.T @ whole, whole.T).T


@pytest.mark.parametrize("of_text", [False, True])
@pytest.mark.parametrize("past", [0, 3])
def test_both_systems_have_the_same_solution(of_text: bool, past: int) -> None:
    given = moment(tiny_lm("gpt2"), 0) if of_text else None
    width = len(moment(tiny_lm("gpt2"), 0).matrix)
    for count in (0, 1, width // 2 - past, width // 2, width - 1, width, width + 5, 3 * width):
        rows = drawn(past + count, width)
        found = ridge_factor(rows[past:], WEIGHT, given, rows[:past])
        assert found.shape == (count, width)
        torch.testing.assert_close(found, by_definition(rows, given)[past:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [1, 5, 16, 23])
@pytest.mark.parametrize("rows", [0, 1, solving.SEVERAL - 1, solving.SEVERAL, 9])
def test_a_factor_is_solved_in_strips(rows: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "STRIP", 5)
    lower = drawn(width, width).tril() + 4 * torch.eye(width).double()
    given = drawn(rows, width)
    before = given.clone()
    expected = torch.cholesky_solve(given.T, lower).T
    torch.testing.assert_close(solving.solve_factored(lower, given), expected, rtol=1e-11, atol=1e-14)
    assert torch.equal(given, before)


def test_without_a_weight_the_keys_are_met_exactly_or_refused() -> None:
    given = moment(tiny_lm("gpt2"), 0)
    width = len(given.matrix)
    rows = drawn(width - 1, width)  # more than half: the system of the width would have no solution
    torch.testing.assert_close(ridge_factor(rows, 0.0, given) @ rows.T, torch.eye(width - 1).double())
    with pytest.raises(ArithmeticError, match="the keys depend on each other"):
        ridge_factor(rows[[0, 0]], 0.0, given)
    with pytest.raises(ArithmeticError, match="too small"):
        ridge_factor(rows[[0] * width], 1e-300)


@pytest.fixture
def of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecondMoment:
    monkeypatch.setattr(second_moment, "KEPT_FROM", 1)
    return second_moments(tiny_lm("gpt2"), [0], TEXTS, folder=tmp_path)[0]


def test_a_factor_and_eigenvectors_are_found_once(of_texts: SecondMoment, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = drawn(2, len(of_texts.matrix))
    solved, space = of_texts.solve(keys), null_space(of_texts, None, 0.3)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", None)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    again = replace(of_texts)
    assert again.ridge == of_texts.ridge
    assert torch.equal(again.solve(keys), solved)
    assert torch.equal(null_space(again, None, 0.3).others, space.others)


def test_a_kept_factor_of_another_matrix_or_a_damaged_one_is_found_again(of_texts: SecondMoment) -> None:
    keys = drawn(2, len(of_texts.matrix))
    solved = of_texts.solve(keys)
    other = replace(of_texts, matrix=2 * of_texts.matrix, hash="other")
    torch.testing.assert_close(other.solve(keys), solved / 2)
    torch.testing.assert_close(replace(of_texts).solve(keys), solved)
    assert of_texts.path is not None
    [kept] = of_texts.path.parent.glob("*-factor.safetensors")
    kept.write_bytes(kept.read_bytes()[:-8] + bytes(8))
    torch.testing.assert_close(replace(of_texts).solve(keys), solved)


def test_a_disk_that_takes_nothing_costs_only_time(of_texts: SecondMoment, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(second_moment, "write_state", full)
    assert of_texts.solve(drawn(1, len(of_texts.matrix))).isfinite().all()


def test_second_moments_too_large_together_are_held_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm("gpt2")
    moments, _ = layer_moments(lm, [0, 1], resources(lm, tmp_path))
    assert sorted(moments.held) == [0, 1]
    monkeypatch.setattr("counterfact.editing.mass_edits.HELD", 0)
    moments, facts = layer_moments(lm, [0, 1], resources(lm, tmp_path))
    assert sorted(facts["second_moments"]) == ["0", "1"]
    for layer in (0, 1, 0):
        assert moments[layer].layer == layer and list(moments.held) == [layer]


def test_layers_share_one_pass_over_the_texts_and_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfact.editing.mass_edits.HELD", 0)
    lm, stages = tiny_lm("gpt2"), set[str]()
    given = Resources(second_moment_texts=TEXTS, cache=tmp_path, progress=lambda stage, *_: stages.add(stage))
    moments, _ = layer_moments(lm, [0, 1], given)
    assert list(moments.held) == [1]
    assert len(stages) == 1 and "second moment of layers 0, 1 of" in stages.pop()
    layer_moments(lm, [0, 1], replace(given, progress=lambda *_: pytest.fail("computed again")))
