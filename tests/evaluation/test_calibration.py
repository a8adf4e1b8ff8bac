"""Calibration against closed forms, torchmetrics, and data whose calibration is known."""

import json
import math

import pytest
import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import (
    calibration,
    calibration_intervals,
    chance_ece,
    correct,
    fit_temperature,
    nll,
    with_temperature,
)


def drawn(count: int, classes: int = 10, *, spread: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn with the very probabilities they state: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def test_even_logits_have_the_closed_form_scores() -> None:
    result = calibration(torch.zeros(8, 4), torch.arange(8) % 4)
    assert result.nll == pytest.approx(math.log(4))
    assert result.brier == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert (result.confidence, result.accuracy) == pytest.approx((0.25, 0.25))
    assert (result.ece_equal_mass, result.ece_equal_width) == pytest.approx((0, 0))


def test_a_sure_and_wrong_network_has_the_worst_brier_score_and_calibration_error() -> None:
    result = calibration(torch.tensor([[100.0, 0.0, 0.0]] * 5), torch.tensor([1, 2, 1, 2, 1]))
    assert result.brier == pytest.approx(2)
    assert result.ece_equal_width == pytest.approx(1)
    assert result.nll == pytest.approx(100)


def test_two_bins_by_hand() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]]).log()
    result = calibration(logits, torch.tensor([0, 1, 0, 0]), bins=2)
    assert [entry.count for entry in result.bins] == [2, 2]
    assert [entry.confidence for entry in result.bins] == pytest.approx([0.6, 0.85])
    assert [entry.accuracy for entry in result.bins] == [1.0, 0.5]
    assert result.ece_equal_mass == pytest.approx(0.5 * 0.4 + 0.5 * 0.35)
    assert [(entry.low, entry.high, entry.count) for entry in result.bins_equal_width] == [(0.5, 1.0, 4)]
    assert result.ece_equal_width == pytest.approx(abs(0.75 - 0.725))
    assert result.brier == pytest.approx((2 * 0.1**2 + 2 * 0.8**2 + 4 * 0.4**2) / 4)


@pytest.mark.parametrize("bins", [10, 15])
def test_equal_width_agrees_with_torchmetrics(bins: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = drawn(2000)
    logits = 1.7 * logits
    expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=10, n_bins=bins, norm="l1")
    assert calibration(logits, labels, bins).ece_equal_width == pytest.approx(float(expected), abs=1e-5)


def test_perfectly_calibrated_data_has_only_the_error_of_few_images() -> None:
    logits, labels = drawn(40_000)
    result = calibration(logits, labels)
    noise = math.sqrt(2 * 15 * 0.25 / (math.pi * 40_000))
    assert result.ece_equal_mass < 1.5 * noise
    assert result.ece_equal_width < 1.5 * noise
    surer = calibration(2 * logits, labels)
    assert surer.ece_equal_mass > 0.1
    assert surer.confidence > surer.accuracy + 0.1


def test_bins_of_equal_mass_hold_as_many_images_each() -> None:
    result = calibration(*drawn(1000), bins=15)
    assert sum(entry.count for entry in result.bins) == 1000
    assert {entry.count for entry in result.bins} <= {66, 67}
    assert all(one.high < other.low for one, other in zip(result.bins, result.bins[1:], strict=False))


def test_equal_confidences_share_a_bin_whatever_the_order_of_the_images() -> None:
    logits = torch.tensor([[30.0, 0.0]] * 60 + [[1.0, 0.0]] * 40)
    labels = torch.cat([torch.zeros(50), torch.ones(50)]).long()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    one, other = calibration(logits, labels), calibration(logits[order], labels[order])
    assert [entry.count for entry in one.bins] == [entry.count for entry in other.bins] == [40, 60]
    assert one.ece_equal_mass == pytest.approx(other.ece_equal_mass, rel=1e-12)


def test_fewer_images_than_bins_are_no_problem() -> None:
    assert sum(entry.count for entry in calibration(*drawn(3)).bins) == 3


def test_the_dictionary_survives_strict_json() -> None:
    content = calibration(*drawn(100)).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert len(content["bins"][0]["interval"]) == 2


def test_logits_that_are_not_finite_are_an_error_and_not_a_number() -> None:
    with pytest.raises(GroundupError, match="NaN or infinities"):
        calibration(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    logits, labels = drawn(20_000)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.04)


def test_the_fitted_temperature_is_the_lowest_point_of_the_nll() -> None:
    logits, labels = drawn(300, spread=1.0, seed=4)
    best = fit_temperature(3 * logits, labels)
    lowest = nll(with_temperature(3 * logits.double(), best), labels)
    for factor in (0.5, 0.999, 1.001, 2.0):
        assert nll(with_temperature(3 * logits.double(), factor * best), labels) > lowest


def test_the_scale_of_the_logits_is_taken_up_by_the_temperature() -> None:
    logits, labels = drawn(500)
    assert fit_temperature(20 * logits, labels) == pytest.approx(20 * fit_temperature(logits, labels), rel=1e-6)


def test_a_temperature_changes_how_sure_and_not_how_right_a_network_is() -> None:
    logits, labels = drawn(2000)
    cooled = with_temperature(3 * logits, fit_temperature(3 * logits, labels))
    assert torch.equal(correct(cooled, labels), correct(logits, labels))
    assert calibration(cooled, labels).ece_equal_mass < calibration(3 * logits, labels).ece_equal_mass / 3


def test_few_images_or_one_class_are_a_mistake_of_the_caller() -> None:
    logits, labels = drawn(49)
    with pytest.raises(UsageError, match="on 49 images; at least 50"):
        fit_temperature(logits, labels)
    with pytest.raises(UsageError, match="images of one class"):
        fit_temperature(torch.randn(60, 10), torch.full((60,), 3))


def test_where_no_temperature_is_the_best_it_says_so() -> None:
    labels = torch.arange(60) % 3
    right = torch.nn.functional.one_hot(labels, 3).float()
    with pytest.raises(GroundupError, match="are right, so surer is always better"):
        fit_temperature(right, labels)
    with pytest.raises(GroundupError, match="no more about the labels than chance"):
        fit_temperature(-right, labels)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_a_finite_number_above_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        with_temperature(torch.zeros(1, 2), temperature)


def test_the_intervals_of_the_means_hold_the_estimates_and_no_ece_has_one() -> None:
    logits, labels = drawn(1000)
    result = calibration(logits, labels)
    intervals = calibration_intervals(logits, labels, generator=torch.Generator().manual_seed(0), resamples=200)
    assert set(intervals) == {"nll", "brier"}
    for name, (low, high) in intervals.items():
        assert low < getattr(result, name) < high


def test_nineteen_of_twenty_calibrated_networks_have_an_ece_in_the_range_of_chance() -> None:
    names = ("ece_equal_mass", "ece_equal_width")
    inside = dict.fromkeys(names, 0)
    for seed in range(60):
        logits, labels = drawn(1000, 100, seed=seed)
        result = calibration(logits, labels)
        chance = chance_ece(logits, generator=torch.Generator().manual_seed(1000 + seed), draws=100)
        for name in names:
            mean, low, high = chance[name]
            assert 0 < low < mean < high
            inside[name] += low <= getattr(result, name) <= high
    # Of 60 with 95% each, fewer than 51 happen once in 500 times. A bootstrap interval holds the true 0 in 4 of 10 cases.
    assert all(count >= 51 for count in inside.values()), inside


def test_an_ece_of_a_network_that_is_too_sure_lies_above_the_range_of_chance_until_its_temperature_is_right() -> None:
    logits, labels = drawn(2000, 100)
    for factor, too_sure in ((1.3, True), (1.0, False)):
        found = calibration(factor * logits, labels)
        chance = chance_ece(factor * logits, generator=torch.Generator().manual_seed(0), draws=200)
        for name, (_, _, high) in chance.items():
            assert (getattr(found, name) > high) is too_sure, (factor, name)
