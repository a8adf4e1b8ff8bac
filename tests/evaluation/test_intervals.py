"""The intervals against published tables and closed forms."""

import math

import pytest

from groundup.basis.errors import GroundupError
from groundup.evaluation import mean_interval, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_the_table_of_newcombe_1998(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_bounds_solve_the_score_equation() -> None:
    z = 2.5758293035489004  # the 99.5% point of the normal distribution
    for bound in wilson(7301, 10_000, confidence=0.99):
        assert abs(0.7301 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 10_000), rel=1e-9)


def test_wilson_at_the_ends_stays_within_zero_and_one() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "count"), [(5, 4), (-1, 4)])
def test_wilson_refuses_impossible_counts(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {count}"):
        wilson(successes, count)


def test_mean_interval_matches_students_table() -> None:
    values = [0.71, 0.73, 0.72]  # standard deviation 0.01; t(0.975, 2) = 4.302653
    mean, low, high = mean_interval(values)
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.72, 0.72 - reach, 0.72 + reach), abs=1e-7)


def test_mean_interval_of_equal_results_has_no_width() -> None:
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(GroundupError, match="at least 2 results, got 1"):
        mean_interval([0.7])


def test_confidence_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="got 95"):
        wilson(1, 2, confidence=95)
