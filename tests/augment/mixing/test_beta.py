"""Beta(alpha, alpha) out of uniform numbers: the right distribution at every alpha, in [0, 1], from the generator alone."""

import pytest
import torch
from scipy.stats import beta, kstest

from groundup.augment.mixing.base import symmetric_beta
from groundup.basis.seeding import generator

COUNT = 50_000


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0, 1e4])
def test_it_is_distributed_as_scipys(alpha: float) -> None:
    drawn = symmetric_beta(alpha, COUNT, generator(0, "beta"))
    assert kstest(drawn.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05, 0.2, 1.0, 8.0])
def test_mean_and_variance_follow_alpha(alpha: float) -> None:
    drawn = symmetric_beta(alpha, COUNT, generator(0, "beta"))
    variance = 1 / (4 * (2 * alpha + 1))
    assert drawn.mean().item() == pytest.approx(0.5, abs=4 * (variance / COUNT) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("alpha", "at_the_ends"), [(0.2, 0.48), (0.05, 0.83)])
def test_a_small_alpha_leaves_lambda_at_the_ends_as_often_as_the_card_says(alpha: float, at_the_ends: float) -> None:
    drawn = symmetric_beta(alpha, COUNT, generator(0, "beta"))
    assert ((drawn < 0.02) | (drawn > 0.98)).double().mean().item() == pytest.approx(at_the_ends, abs=0.01)


@pytest.mark.parametrize("alpha", [1e-300, 1e-6, 1.0, 1e300])
def test_no_alpha_leads_outside_zero_and_one(alpha: float) -> None:
    drawn = symmetric_beta(alpha, COUNT, generator(0, "beta"))
    assert drawn.dtype == torch.float64
    assert bool(((drawn >= 0) & (drawn <= 1)).all())  # not so for NaN


def test_it_is_drawn_from_the_generator_it_is_given() -> None:
    before = torch.get_rng_state()
    first = symmetric_beta(0.2, 100, generator(0, "beta"))
    assert torch.equal(symmetric_beta(0.2, 100, generator(0, "beta")), first)
    assert not torch.equal(symmetric_beta(0.2, 100, generator(1, "beta")), first)
    assert torch.equal(torch.get_rng_state(), before)
