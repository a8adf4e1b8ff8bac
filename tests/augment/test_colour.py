"""Colour functions: the bytes of Pillow for every image alone, whatever the others in the batch are given."""

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from groundup.augment import colour
from groundup.basis.seeding import generator

ENHANCERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Any]] = {
    "brightness": (colour.brightness, ImageEnhance.Brightness),
    "contrast": (colour.contrast, ImageEnhance.Contrast),
    "saturation": (colour.saturation, ImageEnhance.Color),
    "sharpness": (colour.sharpness, ImageEnhance.Sharpness),
}
# Every function, with its parameters made from numbers in [0, 1].
EVERY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: lambda x, share, f=ours: f(x, 2 * share) for name, (ours, _) in ENHANCERS.items()},
    "posterize": lambda x, share: colour.posterize(x, (share * 8).long()),
    "solarize": lambda x, share: colour.solarize(x, share * 256),
    "autocontrast": lambda x, _: colour.autocontrast(x),
    "equalize": lambda x, _: colour.equalize(x),
    "invert": lambda x, _: colour.invert(x),
    "grayscale": lambda x, _: colour.grayscale(x),
    "adjust_hue": lambda x, share: colour.adjust_hue(x, share - 0.5),
    "gaussian_blur": lambda x, share: colour.gaussian_blur(x, share * 3 + 0.1, 5),
}


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """60 pictures, uint8 (60, 3, 24, 20): noise, smooth ramps, few levels, low contrast, one level, one level but one pixel."""
    source = generator(0)
    noise = torch.randint(0, 256, (10, 3, 24, 20), generator=source)
    corners = torch.rand(10, 3, 2, 2, generator=source) * 255
    ramps = F.interpolate(corners, size=(24, 20), mode="bilinear", align_corners=True)
    few = torch.randint(0, 4, (10, 3, 24, 20), generator=source) * torch.randint(1, 80, (10, 3, 1, 1), generator=source)
    dull = 100 + torch.randint(0, 30, (10, 3, 24, 20), generator=source) ** 2 / 29
    flat = torch.randint(0, 256, (10, 3, 1, 1), generator=source).expand(-1, -1, 24, 20)
    nearly = flat.clone()
    nearly[:, :, 5, 7] = torch.randint(0, 256, (10, 3), generator=source)
    return torch.cat([noise, ramps, few, dull, flat, nearly]).to(torch.uint8)


def by_pillow(images: Tensor, change: Callable[[int, Image.Image], Image.Image]) -> Tensor:
    """`change` of (number, picture) made to one picture after the other."""
    changed = [
        change(i, Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())) for i, image in enumerate(images)
    ]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in changed])


@pytest.mark.parametrize("name", list(ENHANCERS))
@pytest.mark.parametrize("factors", ["below 1", "above 1", "0 and 1"])
def test_enhancing_gives_pillows_bytes(name: str, factors: str, pictures: Tensor) -> None:
    ours, pillows = ENHANCERS[name]
    factor = {
        "below 1": torch.rand(60, generator=generator(1)),
        "above 1": 1 + 2 * torch.rand(60, generator=generator(2)),
        "0 and 1": torch.arange(60) % 2.0,
    }[factors]
    expected = by_pillow(pictures, lambda i, picture: pillows(picture).enhance(factor[i].item()))
    assert torch.equal(ours(pictures, factor), expected)


@pytest.mark.parametrize("name", list(ENHANCERS))
def test_factor_1_keeps_every_byte(name: str, pictures: Tensor) -> None:
    assert torch.equal(ENHANCERS[name][0](pictures, torch.ones(60)), pictures)


def test_posterizing_gives_pillows_bytes(pictures: Tensor) -> None:
    bits = torch.arange(60) % 8 + 1
    expected = by_pillow(pictures, lambda i, picture: ImageOps.posterize(picture, int(bits[i])))
    assert torch.equal(colour.posterize(pictures, bits), expected)


def test_posterizing_to_0_bits_is_black(pictures: Tensor) -> None:
    assert not colour.posterize(pictures, torch.zeros(60, dtype=torch.int64)).any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_solarizing_gives_pillows_bytes(dtype: torch.dtype, pictures: Tensor) -> None:
    threshold = torch.linspace(0, 256, 60).to(dtype)
    expected = by_pillow(pictures, lambda i, picture: ImageOps.solarize(picture, threshold[i].item()))
    assert torch.equal(colour.solarize(pictures, threshold), expected)
    assert torch.equal(colour.solarize(pictures, torch.full((60,), 256, dtype=dtype)), pictures)


def test_autocontrast_gives_pillows_bytes(pictures: Tensor) -> None:
    expected = by_pillow(pictures, lambda _, picture: ImageOps.autocontrast(picture))
    assert torch.equal(colour.autocontrast(pictures), expected)


def test_autocontrast_gives_pillows_bytes_for_every_darkest_and_brightest_level() -> None:
    # Each picture holds every level from `low` to `high`, so that no rounding of the stretch is missed.
    low, high = (
        each.flatten() for each in torch.meshgrid(torch.arange(0, 256, 9), torch.arange(0, 256, 7), indexing="ij")
    )
    low, high = low[low < high], high[low < high]
    levels = torch.arange(256).clamp(low[:, None], high[:, None]).to(torch.uint8)
    pictures = levels.view(-1, 1, 16, 16).expand(-1, 3, -1, -1)
    expected = by_pillow(pictures, lambda _, picture: ImageOps.autocontrast(picture))
    assert torch.equal(colour.autocontrast(pictures), expected)


def test_equalizing_gives_pillows_bytes(pictures: Tensor) -> None:
    expected = by_pillow(pictures, lambda _, picture: ImageOps.equalize(picture))
    assert torch.equal(colour.equalize(pictures), expected)
    assert not torch.equal(expected, pictures)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_equalizing_small_pictures_gives_pillows_bytes(size: int) -> None:
    # As many pixels as levels or fewer: steps of 0 and 1, and table entries above 255.
    spread = torch.rand(40, 3, 1, 1, generator=generator(3)) * 6
    pictures = (torch.rand(40, 3, size, size, generator=generator(4)) ** spread * 255).to(torch.uint8)
    expected = by_pillow(pictures, lambda _, picture: ImageOps.equalize(picture))
    assert torch.equal(colour.equalize(pictures), expected)


def test_inverting_gives_pillows_bytes(pictures: Tensor) -> None:
    assert torch.equal(colour.invert(pictures), by_pillow(pictures, lambda _, picture: ImageOps.invert(picture)))


def test_grey_gives_pillows_bytes_in_three_channels(pictures: Tensor) -> None:
    expected = by_pillow(pictures, lambda _, picture: picture.convert("L").convert("RGB"))
    assert torch.equal(colour.grayscale(pictures), expected)


def with_hue_turned(pixel: Tensor, turn: float) -> list[int]:
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixel.double() / 255).tolist())
    return [round(255 * share) for share in colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)]


def test_turning_the_hue_gives_the_formula_of_hsv_to_the_nearest_level() -> None:
    images = torch.randint(0, 256, (40, 3, 5, 5), dtype=torch.uint8, generator=generator(5))
    images[:8] = images[:8] // 64 * 64  # equal channels, and grey
    shift = torch.linspace(-0.5, 0.5, 40)
    expected = torch.tensor(
        [[with_hue_turned(pixel, shift[i].item()) for pixel in image.flatten(1).T] for i, image in enumerate(images)]
    )
    difference = (colour.adjust_hue(images, shift).flatten(2).transpose(1, 2).long() - expected).abs()
    assert difference.max() <= 1
    assert (difference == 0).double().mean() > 0.999, "only ties may fall on the other side"


def test_a_third_of_the_circle_makes_red_green_and_green_blue() -> None:
    red_green = torch.tensor([[200, 10, 10], [10, 200, 10]], dtype=torch.uint8)[:, :, None, None]
    turned = colour.adjust_hue(red_green, torch.full((2,), 1 / 3))
    assert turned.flatten(1).tolist() == [[10, 200, 10], [10, 10, 200]]


@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_no_turn_and_a_whole_turn_keep_every_byte(turn: float, pictures: Tensor) -> None:
    assert torch.equal(colour.adjust_hue(pictures, torch.full((60,), turn)), pictures)


@pytest.mark.parametrize("kernel_size", [3, 5, 13])
def test_blurring_is_a_convolution_with_a_gaussian_to_the_nearest_level(kernel_size: int, pictures: Tensor) -> None:
    sigma, half = torch.linspace(0.1, 4, 60), kernel_size // 2
    squares = torch.arange(-half, half + 1).double() ** 2
    padded = F.pad(pictures.double(), (half,) * 4, mode="reflect")
    for image, result, width in zip(padded, colour.gaussian_blur(pictures, sigma, kernel_size), sigma, strict=True):
        kernel = torch.exp(-(squares[:, None] + squares) / (2 * width.double() ** 2))
        blurred = F.conv2d(image[:, None], (kernel / kernel.sum())[None, None])[:, 0]
        assert (result - blurred).abs().max() < 0.5 + 1e-3


def test_blurring_keeps_a_flat_image(pictures: Tensor) -> None:
    flat = pictures[40:50]
    assert torch.equal(colour.gaussian_blur(flat, torch.linspace(0.1, 9, 10), 7), flat)


@pytest.mark.parametrize("name", list(EVERY))
def test_each_image_follows_its_own_parameter_whatever_its_neighbours(name: str, pictures: Tensor) -> None:
    share = torch.linspace(0, 1, 60)
    alone = [EVERY[name](pictures[i : i + 1], share[i : i + 1]) for i in range(60)]
    assert torch.equal(EVERY[name](pictures, share), torch.cat(alone))


@pytest.mark.parametrize("name", list(EVERY))
def test_the_input_is_kept_and_may_lie_in_either_memory_order(name: str, pictures: Tensor) -> None:
    before, share = pictures.clone(), torch.linspace(0, 1, 60)
    after = EVERY[name](pictures, share)
    assert torch.equal(pictures, before)
    assert (after.dtype, after.shape) == (torch.uint8, pictures.shape)
    assert torch.equal(EVERY[name](pictures.contiguous(memory_format=torch.channels_last), share), after)
