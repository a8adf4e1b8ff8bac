"""TrivialAugment Wide: every operation, magnitude and sign equally often, independently of one another."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.space import NAMES, PLACES, perform
from groundup.augment.trivial_augment_wide import WIDE, TrivialAugmentWide
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]

TRIVIAL = TrivialAugmentWide(name="trivial_augment_wide")


def draw(make_batch: MakeBatch, count: int) -> tuple[Tensor, Tensor]:
    drawn = TRIVIAL.draw(make_batch(count), generator(0))
    return drawn["operation"][:, 0], drawn["magnitude"][:, 0]


def test_the_14_operations_are_equally_likely(make_batch: MakeBatch) -> None:
    operation, _ = draw(make_batch, 50_000)
    counts = torch.bincount(operation, minlength=len(NAMES))
    assert counts[PLACES["Invert"]] == 0
    assert chisquare(counts[:14].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", ["ShearX", "Rotate", "Brightness", "Sharpness"])
def test_the_31_magnitudes_and_both_signs_are_equally_likely(name: str, make_batch: MakeBatch) -> None:
    operation, magnitude = draw(make_batch, 100_000)
    drawn = magnitude[operation == PLACES[name]]
    scale = next(scale for scale in WIDE if scale.name == name)
    magnitude_bin = (drawn.abs() / scale.strongest * 30).round().long()
    assert torch.allclose(scale.magnitudes(31)[magnitude_bin], drawn.abs())
    strong = magnitude_bin > 0  # bin 0 has no sign
    counts = torch.bincount(magnitude_bin[strong] * 2 + (drawn[strong] < 0), minlength=62)[2:]
    assert len(counts) == 60
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_solarize_and_posterize_have_no_sign(make_batch: MakeBatch) -> None:
    operation, magnitude = draw(make_batch, 20_000)
    solarize, bits = magnitude[operation == PLACES["Solarize"]], magnitude[operation == PLACES["Posterize"]]
    assert chisquare(torch.bincount((solarize / 8.5).round().long(), minlength=31).numpy()).pvalue > 1e-4
    assert bits.unique().tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert (magnitude[operation >= PLACES["AutoContrast"]] == 0).all()


def test_the_number_of_magnitudes_can_be_chosen(make_batch: MakeBatch) -> None:
    drawn = TrivialAugmentWide(name="trivial_augment_wide", num_magnitude_bins=3).draw(make_batch(2000), generator(0))
    rotations = drawn["magnitude"][drawn["operation"] == PLACES["Rotate"]]
    assert rotations.unique().tolist() == [-135, -67.5, 0, 67.5, 135]
    with pytest.raises(ValidationError, match="num_magnitude_bins"):
        TrivialAugmentWide(name="trivial_augment_wide", num_magnitude_bins=1)


def test_the_drawn_operation_is_applied(digit_images: Tensor, make_batch: MakeBatch) -> None:
    drawn = TRIVIAL.draw(make_batch(), generator(0))
    after = TRIVIAL.apply(digit_images, drawn)
    expected = perform(
        digit_images, drawn["operation"][:, 0], drawn["magnitude"][:, 0], among=NAMES, interpolation="nearest"
    )
    assert torch.equal(after, expected)
    identity = drawn["operation"][:, 0] == PLACES["Identity"]
    assert torch.equal(after[identity], digit_images[identity])
    changed = (after != digit_images).flatten(1).any(1)
    assert changed.double().mean() > 0.5
