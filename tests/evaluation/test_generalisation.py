"""Gaps between splits, and what choosing the best epoch is worth, in numbers and in words."""

import json

import pytest

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import generalisation, newcombe, selection_bias


def test_every_pair_of_splits_has_its_gap_and_interval() -> None:
    result = generalisation(train=(990, 1000), validation=(160, 200), test=(720, 1000))
    assert [(gap.first, gap.second) for gap in result.gaps] == [
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
    ]
    assert result.accuracies == {"train": 0.99, "validation": 0.8, "test": 0.72}
    assert result.gaps[1].difference == pytest.approx(0.27)
    assert result.gaps[1].interval == newcombe((990, 1000), (720, 1000))
    content = result.to_dict()
    assert json.loads(json.dumps(content)) == content


def test_a_gap_in_words_has_its_direction() -> None:
    result = generalisation(train=(9000, 10_000), validation=(1400, 2000), test=(7450, 10_000))
    assert result.in_words().splitlines() == [
        "train is 20.00 points above validation (95% interval +17.94 to +22.12)",
        "train is 15.50 points above test (95% interval +14.46 to +16.54)",
        "validation is 4.50 points below test (95% interval -6.71 to -2.35)",
    ]


def test_a_gap_within_its_interval_is_not_called_one() -> None:
    (gap,) = generalisation(train=(75, 100), test=(73, 100)).gaps
    assert gap.in_words().startswith("no gap shown between train and test: +2.00 points (95% interval -")


def test_a_split_without_images_has_no_accuracy() -> None:
    with pytest.raises(GroundupError, match="0 images in validation"):
        generalisation(train=(1, 2), validation=(0, 0), test=(1, 2))


def test_the_best_epoch_against_the_last() -> None:
    bias = selection_bias([(1, 0.5), (2, 0.82), (3, 0.82), (4, 0.75)], images=10_000)
    assert (bias.best, bias.best_epoch, bias.last_epoch, bias.readings) == (0.82, 2, 4, 4)
    assert bias.difference == pytest.approx(0.07)
    assert bias.in_words() == (
        "best of 4 readings on validation: 82.00% at epoch 2; last: 75.00% at epoch 4. Choosing the best adds 7.00 points. "
        "The best is no result on validation, which chose it; report it on test."
    )


def test_a_small_advantage_is_called_noise() -> None:
    bias = selection_bias([(1, 0.752), (2, 0.75)], images=1000)
    assert bias.noise == pytest.approx(0.0268, abs=2e-4)
    assert "within the noise of one reading (+-2.68 points)" in bias.in_words()


def test_choosing_on_test_is_called_optimistic() -> None:
    assert "optimistic" in selection_bias([(1, 0.9), (2, 0.7)], images=100, split="test").in_words()


def test_a_best_last_epoch_needs_no_choice() -> None:
    assert "The last is the best" in selection_bias([(1, 0.6), (2, 0.7)], images=100).in_words()


def test_nothing_read_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="0 evaluations"):
        selection_bias([], images=100)
    with pytest.raises(ValueError, match="fractions"):
        selection_bias([(1, 71.2)], images=100)
