"""RandAugment: several operations per image, drawn with replacement, at the one magnitude that was asked for."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.rand_augment import RandAugment, moderate
from groundup.augment.space import NAMES, PLACES, perform
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def test_every_pair_of_operations_is_equally_likely(make_batch: MakeBatch) -> None:
    operation = RandAugment(name="rand_augment").draw(make_batch(100_000), generator(0))["operation"]
    assert operation.shape == (100_000, 2)
    counts = torch.bincount(operation[:, 0] * 14 + operation[:, 1], minlength=196)
    assert len(counts) == 196
    assert chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_all_operations_have_the_magnitude_asked_for_with_a_fair_sign(magnitude: int, make_batch: MakeBatch) -> None:
    settings = RandAugment(name="rand_augment", magnitude=magnitude, num_ops=3)
    drawn = settings.draw(make_batch(20_000, size=32), generator(0))
    for scale in moderate(32):
        found = drawn["magnitude"][drawn["operation"] == PLACES[scale.name]]
        expected = scale.magnitudes(31)[magnitude]
        assert (found.abs() == expected).all(), scale.name
        if scale.signed and magnitude:
            negative = int((found < 0).sum())
            assert chisquare([negative, len(found) - negative]).pvalue > 1e-4
        else:
            assert (found >= 0).all()


def test_known_magnitudes() -> None:
    at_9 = {scale.name: float(scale.magnitudes(31)[9]) for scale in moderate(224)}
    assert at_9["ShearX"] == pytest.approx(0.09)
    assert at_9["TranslateX"] == 30  # 150 / 331 * 224 * 0.3 = 30.45
    assert at_9["Rotate"] == pytest.approx(9)
    assert at_9["Brightness"] == pytest.approx(0.27)
    assert at_9["Posterize"] == 7
    assert at_9["Solarize"] == pytest.approx(178.5)


def test_operations_are_applied_in_turn(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = RandAugment(name="rand_augment", num_ops=3, magnitude=20)
    drawn = settings.draw(make_batch(), generator(0))
    expected = digit_images
    for turn in range(3):
        expected = perform(
            expected, drawn["operation"][:, turn], drawn["magnitude"][:, turn], among=NAMES, interpolation="nearest"
        )
    assert torch.equal(settings.apply(digit_images, drawn), expected)


@pytest.mark.parametrize(("magnitude", "bins"), [(31, 31), (10, 10), (40, 31)])
def test_a_magnitude_beyond_the_bins_is_refused(magnitude: int, bins: int) -> None:
    with pytest.raises(ValidationError, match=f"magnitude={magnitude} is not one of the {bins} bins"):
        RandAugment(name="rand_augment", magnitude=magnitude, num_magnitude_bins=bins)


@pytest.mark.parametrize("wrong", [{"num_ops": 0}, {"magnitude": -1}, {"interpolation": "bicubic"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RandAugment.model_validate({"name": "rand_augment", **wrong})
