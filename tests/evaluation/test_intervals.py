"""The intervals against published tables and closed forms."""

import math

import pytest
import torch

from groundup.basis.errors import GroundupError
from groundup.evaluation import bootstrap, macro_accuracy, mean_interval, newcombe, wilson


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


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_newcombe_matches_the_table_of_1998(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert newcombe(first, second) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert newcombe(second, first) == (pytest.approx(-high, abs=5e-5), pytest.approx(-low, abs=5e-5))


def test_newcombe_without_images_knows_nothing() -> None:
    assert newcombe((0, 0), (3, 4)) == (-1, 1)


def test_the_bootstrap_of_a_mean_is_its_normal_interval() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = bootstrap(
        lambda drawn: float(values[drawn].mean()), 2000, generator=torch.Generator().manual_seed(2), resamples=2000
    )
    reach = 1.96 * float(values.std()) / math.sqrt(2000)
    assert (low, high) == pytest.approx((float(values.mean()) - reach, float(values.mean()) + reach), abs=0.08 * reach)


def test_the_bootstrap_is_a_function_of_its_generator() -> None:
    values = torch.arange(50.0)

    def interval(seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        return bootstrap(lambda drawn: float(values[drawn].mean()), 50, generator=generator, resamples=100)

    assert interval(0) == interval(0)
    assert interval(0) != interval(1)


def test_the_bootstrap_covers_a_macro_accuracy() -> None:
    generator = torch.Generator().manual_seed(3)
    share = torch.tensor([0.9, 0.5, 0.7])  # of the images of a class that are right
    held = 0
    for _ in range(100):
        labels = torch.multinomial(torch.tensor([0.6, 0.1, 0.3]), 400, True, generator=generator)
        predictions = torch.where(torch.rand(400, generator=generator) < share[labels], labels, 3)
        low, high = bootstrap(
            lambda drawn, labels=labels, predictions=predictions: macro_accuracy(predictions[drawn], labels[drawn]),
            400,
            generator=generator,
            resamples=100,
        )
        held += low <= 0.7 <= high
    assert 87 <= held <= 100  # 95 expected; 100 resamples and few images of a class take some


def test_the_bootstrap_lowers_what_is_too_high_on_few_images_and_stays_in_range() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def distance(drawn: torch.Tensor) -> float:  # of the mean from its true value 0, in ten groups: too high by chance
        return float(values[drawn].view(10, 20).mean(1).abs().mean())

    generator = torch.Generator().manual_seed(5)
    low, high = bootstrap(distance, 200, generator=generator, resamples=200, within=(0.0, 0.25))
    assert 0 <= low < high <= 0.25


def test_the_bootstrap_refuses_what_is_no_sample() -> None:
    generator = torch.Generator()
    with pytest.raises(GroundupError, match="at least 2 of them, got 1"):
        bootstrap(lambda drawn: 0.0, 1, generator=generator)
    with pytest.raises(ValueError, match="at least 100, got 10"):
        bootstrap(lambda drawn: 0.0, 9, generator=generator, resamples=10)
    with pytest.raises(GroundupError, match="not finite"):
        bootstrap(lambda drawn: math.nan, 9, generator=generator, resamples=100)
