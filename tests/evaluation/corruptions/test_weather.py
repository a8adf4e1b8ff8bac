"""Snow, frost, fog and brightness against their formulas."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from groundup.augment.gaussian_noise import normal
from groundup.evaluation.corruptions import CORRUPTIONS
from groundup.evaluation.corruptions.base import one_each, uniform, zoomed
from groundup.evaluation.corruptions.blur import smeared
from groundup.evaluation.corruptions.weather import Snow, brightness, fog, frost, frost_texture, plasma, snow

Pictures = Callable[[int, int], Tensor]
SEEDS = torch.tensor([5, 6, 7])
MANY = torch.arange(300) * 10**12


@pytest.mark.parametrize("falling", CORRUPTIONS["snow"].small)
def test_snow_whitens_and_adds_two_layers_of_flakes(falling: Snow, pictures: Pictures) -> None:
    mean, std, enlarged, threshold, radius, sigma, kept = falling
    images = pictures(3, 32)
    flakes = zoomed(normal(SEEDS, 1, 32, 32) * std + mean, enlarged).clamp(0, 1).numpy()
    flakes[flakes < threshold] = 0
    layer = torch.from_numpy((flakes * 255).astype(np.uint8)).float()
    layer = smeared(layer, (radius, sigma), one_each(SEEDS + 1, -135, -45)).round().numpy() / 255
    x = images.double().numpy() / 255
    grey = np.einsum("bchw,c->bhw", x, [0.299, 0.587, 0.114])[:, None]
    snowy = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5) + layer + layer[:, :, ::-1, ::-1]
    apart = np.abs(snow(images, falling, SEEDS).numpy().astype(int) - (np.clip(snowy, 0, 1) * 255).astype(int))
    assert apart.max() <= 3  # a byte of the layer that is cut elsewhere counts twice
    assert (apart > 0).mean() < 0.02


def test_snow_falls_steeply() -> None:
    dark = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    flakes = snow(dark, (0.1, 0.2, 1, 0.6, 8, 3, 1.0), MANY).float()[:, 0]
    down, across = (flakes.diff(dim=axis).abs().mean() for axis in (1, 2))
    assert down < 0.8 * across


@pytest.mark.parametrize("weights", [*CORRUPTIONS["frost"].small, *CORRUPTIONS["frost"].large])
def test_frost_is_the_published_sum_of_image_and_ice(weights: tuple[float, float], pictures: Pictures) -> None:
    images = pictures(3, 32)
    expected = (images.double() * weights[0] + frost_texture(SEEDS, 32).double() * weights[1]).clamp(0, 255)
    apart = (frost(images, weights, SEEDS).double() - expected.floor()).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() < 0.01


@pytest.mark.parametrize(("side", "contrast"), [(32, 14), (80, 25)])
def test_the_ice_has_the_tone_of_the_photographs(side: int, contrast: float) -> None:
    ice = frost_texture(MANY[:60], side).double()
    red, green, blue = ice.mean((0, 2, 3))
    assert red < green < blue
    levels = ice.mean((1, 2, 3))
    assert 115 < levels.min() < 140
    assert 185 < levels.max() < 210
    assert ice.mean(1).std((1, 2)).mean() == pytest.approx(contrast, rel=0.1)


def test_the_ice_has_bright_thin_needles() -> None:
    grey = frost_texture(MANY[:10], 224).mean(1).double().numpy()
    fine = grey - uniform_filter(grey, (0, 25, 25))
    # Lines of light on a darker ground: fine detail leans to the bright side, which noise does not.
    assert (fine**3).mean() / (fine**2).mean() ** 1.5 > 0.15
    assert np.abs(grey[0] - grey[1]).mean() > 5


@pytest.mark.parametrize("decay", [3.0, 1.75])
def test_a_cloud_follows_the_diamond_square_rule(decay: float) -> None:
    side = 16
    cloud = np.zeros((side, side))
    for step in range(4):
        size, gap = 2**step, side // 2**step
        random = (uniform(torch.tensor([9 + step]), 3, size, size)[0].double().numpy() * 2 - 1) / decay ** (2 * step)
        half = gap // 2
        places = [(i * gap, j * gap, i, j) for i in range(size) for j in range(size)]
        for y, x, i, j in places:
            corners = [(y, x), (y + gap, x), (y, x + gap), (y + gap, x + gap)]
            cloud[y + half, x + half] = np.mean([cloud[p % side, q % side] for p, q in corners]) + random[0, i, j]
        for y, x, i, j in places:
            for number, (p, q) in enumerate([(y, x + half), (y + half, x)], 1):
                around = [(p - half, q), (p + half, q), (p, q - half), (p, q + half)]
                cloud[p, q] = np.mean([cloud[u % side, v % side] for u, v in around]) + random[number, i, j]
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    assert plasma(torch.tensor([9]), side, decay)[0].numpy() == pytest.approx(cloud, abs=1e-5)


@pytest.mark.parametrize("hazy", [*CORRUPTIONS["fog"].small, *CORRUPTIONS["fog"].large])
def test_fog_adds_a_cloud_below_the_brightest_value(hazy: tuple[float, float], pictures: Pictures) -> None:
    images = pictures(3, 32)
    x = images.double() / 255
    brightest = x.amax((1, 2, 3), keepdim=True)
    cloud = plasma(SEEDS, 32, hazy[1])[:, None].double()
    expected = (x + hazy[0] * cloud) * brightest / (brightest + hazy[0]) * 255
    apart = (fog(images, hazy, SEEDS).double() - expected.floor()).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() < 0.01


@pytest.mark.parametrize("more", [0.05, 0.3, 0.5])
def test_brightness_raises_the_value_of_hsv(more: float, pictures: Pictures) -> None:
    images = pictures(1, 16)
    result = brightness(images, more, SEEDS)[0].flatten(1).T.tolist()
    for before, after in zip(images[0].flatten(1).T.tolist(), result, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        expected = [255 * share for share in colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))]
        assert after == pytest.approx([level - 0.5 for level in expected], abs=0.51)
