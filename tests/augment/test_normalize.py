"""From bytes to what the network sees, with one set of constants for everybody."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from groundup.augment import NormalizeSettings, measure, normalize
from groundup.basis.seeding import generator

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def formula(images: Tensor) -> Tensor:
    shape = (1, 3, 1, 1)
    return (
        (images.double() / 255 - torch.tensor(MEAN).double().view(shape)) / torch.tensor(STD).double().view(shape)
    ).float()


def test_it_equals_the_formula_on_every_byte() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(normalize(images, MEAN, STD), formula(images), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("resolution", [8, 12, 16, 24])
def test_resizing_equals_torchs_antialiased_interpolation(digit_images: Tensor, resolution: int) -> None:
    expected = F.interpolate(formula(digit_images), size=(resolution, resolution), mode="bilinear", antialias=True)
    resized = normalize(digit_images, MEAN, STD, resolution)
    assert resized.shape == (64, 3, resolution, resolution)
    torch.testing.assert_close(resized, expected, atol=1e-5, rtol=1e-5)


def test_shrinking_a_fine_pattern_gives_its_mean_not_single_pixels() -> None:
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255).to(torch.uint8).expand(1, 3, 16, 16)
    small = normalize(board, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4)
    assert small.abs().max() < 0.05


def test_the_own_size_is_kept_untouched(digit_images: Tensor) -> None:
    assert torch.equal(normalize(digit_images, MEAN, STD, 16), normalize(digit_images, MEAN, STD))


def test_the_result_is_float32_and_channels_last(digit_images: Tensor) -> None:
    for resolution in (None, 8):
        result = normalize(digit_images, MEAN, STD, resolution)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_input_is_not_changed(digit_images: Tensor) -> None:
    before = digit_images.clone()
    normalize(digit_images, MEAN, STD, 8)
    assert torch.equal(digit_images, before)


def test_measured_constants_are_those_of_numpy() -> None:
    # More images than are measured at a time, and channels that differ.
    images = torch.randint(0, 256, (2500, 4, 4, 3), dtype=torch.uint8, generator=generator(0))
    images[..., 1] //= 2
    images[:100, ..., 2] = 255
    pixels = images.numpy().reshape(-1, 3) / 255
    mean, std = measure(images.split(7))
    np.testing.assert_allclose(mean, pixels.mean(0), atol=5.1e-5)
    np.testing.assert_allclose(std, pixels.std(0), atol=5.1e-5)
    assert [round(value, 4) for value in (*mean, *std)] == [*mean, *std]


def test_images_normalised_with_their_own_constants_have_mean_0_and_deviation_1(digit_images: Tensor) -> None:
    mean, std = measure([digit_images.permute(0, 2, 3, 1)])
    result = normalize(digit_images, mean, std)
    assert result.mean((0, 2, 3)).abs().max() < 1e-3
    assert (result.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_channel_of_one_colour_can_still_be_divided_by() -> None:
    mean, std = measure([torch.full((10, 4, 4, 3), 51, dtype=torch.uint8)])
    assert mean == (0.2, 0.2, 0.2)
    assert std == (1e-3, 1e-3, 1e-3)
    assert normalize(torch.full((1, 3, 4, 4), 51, dtype=torch.uint8), mean, std).isfinite().all()


def test_constants_have_one_value_per_channel() -> None:
    with pytest.raises(ValidationError, match="mean"):
        NormalizeSettings.model_validate({"mean": [0.5, 0.5]})


@pytest.mark.parametrize(
    "constants",
    [{"std": [0.2, 0, 0.2]}, {"std": [-0.2, 0.2, 0.2]}, {"mean": [125.3, 123, 113.9]}, {"mean": [-1, 0, 0]}],
)
def test_constants_that_cannot_belong_to_pixels_in_0_to_1_are_refused(constants: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError):
        NormalizeSettings.model_validate(constants)
