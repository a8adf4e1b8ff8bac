"""Comparisons against exact counts, a bootstrap, and simulations whose true difference is known.

Coverage: of 500 simulated pairs the 95% interval holds the true difference in 92% to 98%; that is 475 within 3 standard
deviations (sqrt(500 * 0.95 * 0.05) = 4.9).
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import Comparison, bootstrap, compare_groups, compare_runs
from groundup.evaluation.comparison import Over, agresti_min, mcnemar


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[Tensor, Tensor]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (3, 11), (7, 8), (40, 61), (0, 0)])
def test_mcnemar_is_the_exact_sum_over_fair_coins(only_a: int, only_b: int) -> None:
    count, least = only_a + only_b, min(only_a, only_b)
    exact = min(1.0, 2 * sum(math.comb(count, heads) for heads in range(least + 1)) / 2**count)
    assert mcnemar(only_a, only_b) == pytest.approx(exact, rel=1e-12)


def test_the_interval_is_that_of_a_paired_bootstrap() -> None:
    a, b = pair(700, 60, 40, 200)
    apart = a.double() - b.double()
    low, high = bootstrap(
        lambda drawn: float(apart[drawn].mean()), 1000, generator=torch.Generator().manual_seed(1), resamples=2000
    )
    assert compare_runs(a, b).interval == (pytest.approx(low, abs=0.0015), pytest.approx(high, abs=0.0015))


def test_the_approval_ratings_of_agresti() -> None:
    # Categorical data analysis, 2nd ed., table 10.1: 1600 people, 86 against 150 who changed; Wald gives -0.059 to -0.021.
    assert agresti_min(86, 150, 1600) == (pytest.approx(-0.059, abs=5e-4), pytest.approx(-0.021, abs=5e-4))


def test_pairing_shows_what_unpaired_accuracies_hide() -> None:
    result = compare_runs(*pair(700, 40, 10, 250), names=("wide", "narrow"))
    assert result.difference == pytest.approx(0.03)
    assert result.accuracies == (0.74, 0.71)
    assert result.shown
    assert result.in_words().startswith(
        "wide is better by 3.0 points (95% interval +1.6 to +4.4 over the choice of test"
    )


def test_in_words_the_worse_one_is_not_called_better() -> None:
    result = compare_runs(*pair(700, 10, 40, 250))
    assert result.in_words().startswith("B is better by 3.0 points (95% interval +1.6 to +4.4 over")
    assert "no difference shown: +0.5 points" in compare_runs(*pair(700, 30, 25, 245)).in_words()


def test_a_difference_is_shown_only_where_interval_and_test_agree() -> None:
    narrow = compare_runs(*pair(700, 40, 10, 250))
    assert not replace(narrow, p=0.06).shown
    assert not replace(narrow, interval=(-0.001, 0.06)).shown


def test_exchanging_the_sides_turns_the_sign_and_nothing_else() -> None:
    a, b = pair(50, 9, 4, 37)
    groups = torch.stack([a, b, a]), torch.stack([b, b.flip(0)])
    for one, other in (
        (compare_runs(a, b), compare_runs(b, a)),
        (compare_groups(*groups), compare_groups(*groups[::-1])),
        (compare_groups(*groups, over="seeds"), compare_groups(*groups[::-1], over="seeds")),
    ):
        assert other.difference == pytest.approx(-one.difference, abs=1e-15)
        assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]), abs=1e-12)
        assert other.p == pytest.approx(one.p, rel=1e-9)


def test_identical_predictions_show_no_difference_within_a_small_interval() -> None:
    a, _ = pair(7000, 0, 0, 3000)
    result = compare_runs(a, a)
    assert (result.difference, result.p) == (0, 1)
    assert result.interval[0] == -result.interval[1]
    assert result.in_words() == (
        "no difference shown: +0.00 points (95% interval -0.02 to +0.02 over the choice of test images; p = 1)"
    )


def test_identical_groups_show_no_difference() -> None:
    a = torch.rand(3, 200, generator=torch.Generator().manual_seed(0)) < 0.7
    for over in ("seeds", "seeds and images"):
        result = compare_groups(a, a, over=over)  # type: ignore[arg-type]
        assert (result.difference, result.p, result.shown) == (0, 1, False)
    same = a[:1].expand(3, -1)
    assert compare_groups(same, same).interval == pytest.approx((0, 0), abs=1e-12)


def test_over_seeds_it_is_welchs_test_of_the_accuracies() -> None:
    from scipy.stats import ttest_ind

    generator = torch.Generator().manual_seed(2)
    a, b = torch.rand(3, 400, generator=generator) < 0.75, torch.rand(5, 400, generator=generator) < 0.7
    result = compare_groups(a, b, over="seeds")
    expected = ttest_ind(a.double().mean(1), b.double().mean(1), equal_var=False)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert result.interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)


def test_single_runs_over_images_cover_the_true_difference() -> None:
    generator = torch.Generator().manual_seed(5)
    probabilities = torch.tensor([0.66, 0.09, 0.05, 0.2])  # both, A alone, B alone, neither: A is better by 0.04
    held = 0
    for _ in range(500):
        counts = torch.bincount(torch.multinomial(probabilities, 400, True, generator=generator), minlength=4)
        result = compare_runs(*pair(*counts.tolist()))
        held += result.interval[0] <= 0.04 <= result.interval[1]
    assert 460 <= held <= 490


def simulated(seeds: int, generator: torch.Generator, *, better: float = 0.0) -> tuple[Tensor, Tensor]:
    """Groups on 300 new images with new seeds: probability = ease of the image + luck of the seed (+ `better` for A).

    Each group finds other images easy, so the choice of images matters to the difference.
    """
    ease = 0.04 + 0.85 * torch.rand(2, 1, 300, generator=generator)
    luck = 0.06 * torch.rand(2, seeds, 1, generator=generator) - 0.03
    right = torch.rand(2, seeds, 300, generator=generator) < ease + luck + torch.tensor([better, 0.0])[:, None, None]
    return right[0], right[1]


@pytest.mark.parametrize("seeds", [3, 5])
def test_groups_over_seeds_and_images_cover_the_true_difference(seeds: int) -> None:
    generator = torch.Generator().manual_seed(seeds)
    pairs = [simulated(seeds, generator, better=0.05) for _ in range(500)]

    def held(over: Over) -> int:
        intervals = [compare_groups(a, b, over=over).interval for a, b in pairs]
        return sum(low <= 0.05 <= high for low, high in intervals)

    assert 460 <= held("seeds and images") <= 490
    # On these very images alone: no answer to the question about new ones.
    assert held("seeds") < held("seeds and images") - 15


def test_images_that_differ_for_the_two_groups_widen_the_interval_over_both() -> None:
    generator = torch.Generator().manual_seed(0)
    ease = torch.rand(2, 1, 300, generator=generator).round()  # each image is always right or always wrong in a group
    a, b = ease[0].bool().repeat(3, 1), ease[1].bool().repeat(3, 1)
    a[0, 0], b[0, 0] = ~a[0, 0], ~b[0, 0]
    over_seeds, over_both = compare_groups(a, b, over="seeds"), compare_groups(a, b)
    assert over_both.interval[1] - over_both.interval[0] > 4 * (over_seeds.interval[1] - over_seeds.interval[0])
    assert over_both.interval[1] - over_both.interval[0] == pytest.approx(2 * 1.97 * math.sqrt(0.5 / 300), rel=0.1)


def test_a_bound_near_zero_is_not_printed_as_zero() -> None:
    result = Comparison(("A", "B"), (0.8, 0.79), 0.01, (0.0004, 0.0196), 0.04, 10_000, (1, 1), "test images")
    assert "A is better by 1.00 points (95% interval +0.04 to +1.96 " in result.in_words()


def test_runs_on_other_images_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="same test images: 3 against 4"):
        compare_runs(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool \(N,\), got torch.float32"):
        compare_runs(torch.ones(3), torch.ones(3))


def test_one_seed_says_nothing_about_seeds() -> None:
    hits = torch.ones(2, 9, dtype=torch.bool)
    with pytest.raises(GroundupError, match="at least 2 in each group, got 2 and 1"):
        compare_groups(hits, hits[:1])
