"""The stated sampling error of an edit's direction and update is the true one, on keys whose moment is known."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.moments.sampling import SamplingError, sampling_error

D, TOKENS = 48, 20


def scale() -> Tensor:
    """A square root of a second moment with a condition number of a thousand."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=generator))[0]
    return (turn * torch.logspace(0, -1.5, D, dtype=torch.float64)) @ turn.T


def texts(count: int, generator: torch.Generator, alike: float) -> Tensor:
    """Keys of texts whose tokens are alike, with heavy tails and a mean, (texts, tokens, D)."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    each = normal(count, TOKENS, D) + alike * normal(count, 1, D)
    return (each * torch.exp(0.4 * normal(count, TOKENS, 1))) @ scale() + 0.2 * scale().sum(0)


def moment(keys: Tensor) -> Tensor:
    rows = keys.reshape(-1, D)
    return rows.T @ rows / len(rows)


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["tokens independent", "tokens of a text alike"])
def truth(request: pytest.FixtureRequest) -> tuple[float, Tensor]:
    """How alike tokens are, and the second moment of 400,000 of them."""
    return request.param, moment(texts(20000, torch.Generator().manual_seed(2), request.param))


def measure(alike: float, limit: Tensor, count: int, seed: int) -> tuple[SamplingError, float, float]:
    """Return the estimate from so many texts, the true cosine, and the update's true error."""
    generator = torch.Generator().manual_seed(seed)
    keys, drawn = texts(64, generator, alike)[:, 0], texts(count, generator, alike)
    u, true = (torch.linalg.solve(matrix, keys.T).T for matrix in (moment(drawn), limit))
    estimate = sampling_error(moment(drawn[::2]), moment(drawn[1::2]), u, keys)
    assert estimate is not None
    w, w_true = (each / (each * keys).sum(1, keepdim=True) for each in (u, true))
    update = ((w - w_true).square().sum(1) / w_true.square().sum(1)).mean().sqrt()
    return estimate, float(torch.nn.functional.cosine_similarity(u, true).mean()), float(update)


@pytest.mark.parametrize("count", [60, 200, 1000])
def test_the_estimate_is_the_true_error(truth: tuple[float, Tensor], count: int) -> None:
    made = [measure(*truth, count, seed) for seed in range(6)]
    angle = torch.tensor([[error.cosine, cosine] for error, cosine, _ in made]).mean(0).arccos()
    update = torch.tensor([[error.update, true] for error, _, true in made]).mean(0)
    assert 0.85 < float(angle[0] / angle[1]) < 1.1
    assert 0.8 < float(update[0] / update[1]) < 1.1


def test_a_share_of_a_whole_errs_less_against_the_whole(truth: tuple[float, Tensor]) -> None:
    alike, _ = truth
    whole = texts(800, torch.Generator().manual_seed(7), alike)
    estimates, true = [], []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(whole), generator=generator)[:400]
        keys, drawn = texts(64, generator, alike)[:, 0], whole[chosen]
        u, limit = (torch.linalg.solve(matrix, keys.T).T for matrix in (moment(drawn), moment(whole)))
        error = sampling_error(moment(drawn[::2]), moment(drawn[1::2]), u, keys)
        assert error is not None
        estimates.append(error.left(0.5).cosine)
        true.append(float(torch.nn.functional.cosine_similarity(u, limit).mean()))
    angles = torch.tensor([estimates, true]).mean(1).arccos()
    assert 0.85 < float(angles[0] / angles[1]) < 1.15


def test_too_few_tokens_give_no_estimate() -> None:
    generator = torch.Generator().manual_seed(0)
    few, keys = texts(2, generator, 0.0), texts(1, generator, 0.0)[0]
    assert sampling_error(moment(few[:1]), moment(few[1:]), keys, keys) is None
    many = texts(100, generator, 0.0)
    assert sampling_error(moment(many[::2]), moment(many[1::2]), keys[:0], keys[:0]) is None


def test_nothing_is_left_to_err_at_the_end() -> None:
    error = SamplingError(cosine=0.9, update=0.3, halves=0.7, keys=3)
    assert error.left(0.0).cosine == pytest.approx(0.9)
    assert error.left(1.0)[:2] == (1.0, 0.0)
