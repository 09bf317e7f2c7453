"""Noise rules: what they are called, how large they are, and that a fact's noise depends on the fact alone."""

import numpy as np
import pytest
import torch

from counterfact.core.errors import BadInput
from counterfact.lm.model.hooks import find_module
from counterfact.tracing.corruption import embedding_moments, make_corruption, parse_rule, subject_deviation
from tests.support.models import SENTENCES, tiny_lm

SUBJECTS = ["Anna Ferrand", "Norway", "Norway"]


@pytest.mark.parametrize("code", ["", "x3", "s-1", "u", "t2", "t", "m3", "nan", "-1"])
def test_unknown_rules_are_refused(code: str) -> None:
    with pytest.raises(BadInput, match="expected a noise rule"):
        parse_rule(code)


def test_three_sigma_counts_every_component_of_every_subject() -> None:
    lm = tiny_lm()
    ids = [token for subject in SUBJECTS for token in lm.tokens(subject)]
    rows = find_module(lm.model, lm.layout.embed)(torch.tensor(ids))
    assert subject_deviation(lm, SUBJECTS) == pytest.approx(float(rows.std()), rel=1e-12)
    assert make_corruption(lm, "s", subjects=SUBJECTS).scale == pytest.approx(3 * float(rows.std()), rel=1e-12)


def test_the_first_draws_of_one_seed_are_the_references() -> None:
    noise = make_corruption(tiny_lm(), "0.5", one_seed=True, samples=4)
    np.testing.assert_array_equal(noise.noise(7, 2, 32), 0.5 * np.random.RandomState(1).randn(4, 2, 32))
    assert torch.equal(noise.noise(7, 2, 32), noise.noise(8, 2, 32))


def test_a_facts_noise_depends_on_seed_and_fact() -> None:
    noise = make_corruption(tiny_lm(), "u0.5")
    drawn = noise.noise(7, 2, 32)
    assert torch.equal(drawn, noise.noise(7, 2, 32))
    assert not torch.equal(drawn, noise.noise(8, 2, 32))
    assert not torch.equal(drawn, make_corruption(tiny_lm(), "u0.5", seed=2).noise(7, 2, 32))
    assert 0.4 < drawn.abs().max() <= 0.5


@pytest.mark.parametrize("code", ["m", "t5"])
def test_multivariate_rules_have_the_embeddings_moments(code: str) -> None:
    lm = tiny_lm()
    mean, covariance = embedding_moments(lm, SENTENCES)
    ids = torch.tensor([token for text in SENTENCES for token in lm.tokens(text)])
    rows = find_module(lm.model, lm.layout.embed)(ids).numpy()
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=1e-12)
    drawn = make_corruption(lm, code, texts=SENTENCES, samples=20_000).noise(0, 1, 32)[:, 0].numpy()
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.04)
    tails = ((drawn - drawn.mean(0)) ** 4).mean(0) / drawn.var(0) ** 2
    assert (tails.mean() > 4) == (code == "t5")


def test_rules_without_anything_to_scale_by_are_refused() -> None:
    with pytest.raises(BadInput, match="there are none"):
        make_corruption(tiny_lm(), "s3")
    with pytest.raises(BadInput, match="there are none"):
        make_corruption(tiny_lm(), "m")
    with pytest.raises(BadInput, match="at least one noise sample"):
        make_corruption(tiny_lm(), "0.1", samples=0)
