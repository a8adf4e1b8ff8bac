"""Strengths and ranges: what they stand for, and that parameters fill them evenly."""

from collections.abc import Callable

import pytest
from scipy.stats import kstest

from groundup.augment import Batch
from groundup.augment.ranges import Span, Strength, acceptable, around, uniform
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize(
    ("strength", "centre", "span"),
    [(0.5, 1.0, (0.5, 1.5)), (3.0, 1.0, (0.0, 4.0)), (0.0, 1.0, (1.0, 1.0)), ((0.2, 0.7), 1.0, (0.2, 0.7))],
)
def test_a_strength_reaches_both_ways_but_not_below_the_lowest(strength: Strength, centre: float, span: Span) -> None:
    assert around(strength, centre, lowest=0.0) == span


def test_without_a_lowest_a_strength_reaches_below_zero() -> None:
    assert around(20.0, 0.0) == (-20.0, 20.0)


def test_a_reversed_range_is_refused_with_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"\[1\.2, 0\.8\] is reversed; write \[0\.8, 1\.2\]"):
        acceptable((1.2, 0.8))
    assert acceptable((0.8, 0.8)) == (0.8, 0.8)


def test_a_negative_strength_is_refused_but_a_range_may_lie_below_0() -> None:
    with pytest.raises(ValueError, match=r"-0\.3 is a strength and cannot be below 0; for a range write \[low, high\]"):
        acceptable(-0.3)
    assert acceptable((-0.3, -0.1)) == (-0.3, -0.1)
    assert acceptable(0.0) == 0.0


@pytest.mark.parametrize("span", [(0.6, 1.4), (-20.0, 20.0), (-0.1, 0.3)])
def test_parameters_fill_the_range_evenly(span: Span, make_batch: MakeBatch) -> None:
    drawn = uniform(span, make_batch(20_000), generator(0)).double()
    assert kstest(drawn, "uniform", args=(span[0], span[1] - span[0])).pvalue > 1e-4


def test_a_range_of_one_value_gives_it(make_batch: MakeBatch) -> None:
    assert (uniform((0.25, 0.25), make_batch(100), generator(0)) == 0.25).all()
