"""Blurs against NumPy and SciPy, written out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from groundup.basis.seeding import generator
from groundup.evaluation.corruptions import CORRUPTIONS
from groundup.evaluation.corruptions.base import one_each, zoomed
from groundup.evaluation.corruptions.blur import defocus_blur, glass_blur, motion_blur, wandered, zoom_blur

Pictures = Callable[[int, int], Tensor]
SEEDS = torch.tensor([5, 6, 7])


def both(name: str) -> list[tuple[int, Any]]:
    """Every published parameter with a side it is for."""
    return [(32, one) for one in CORRUPTIONS[name].small] + [(72, one) for one in CORRUPTIONS[name].large]


def nearly(result: Tensor, expected: NDArray[Any], unequal: float = 0.01) -> None:
    """At most 1 level apart, and that seldom."""
    apart = np.abs(result.numpy().astype(int) - expected.astype(np.uint8).astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() <= unequal


@pytest.mark.parametrize(("side", "lens"), both("defocus_blur"))
def test_defocus_is_the_correlation_with_a_soft_disk(side: int, lens: tuple[float, float], pictures: Pictures) -> None:
    radius, softness = lens
    y, x = np.mgrid[-14:15, -14:15]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    near = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    gauss = np.exp(-0.5 * (near / softness) ** 2)
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, gauss / gauss.sum(), axis, mode="constant")
    images = pictures(2, side)
    filtered = [
        [ndimage.correlate(plane.astype(float), disk / disk.sum(), mode="mirror") for plane in image]
        for image in images.numpy()
    ]
    nearly(defocus_blur(images, lens, SEEDS), np.array(filtered) + 1e-3)


@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.4, 0.7, 1.5])
def test_glass_blurs_before_and_after(sigma: float, pictures: Pictures) -> None:
    images = pictures(2, 32)
    expected = images.numpy()
    for _ in range(2):
        smooth = ndimage.gaussian_filter(expected.astype(float), (0, 0, sigma, sigma), mode="nearest", truncate=4)
        expected = (smooth + 1e-3).astype(np.uint8)
    nearly(glass_blur(images, (sigma, 1, 0), SEEDS), expected)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_pixels_wander_as_in_the_published_loop(margin: int) -> None:
    side = 24
    steps = torch.randint(-margin, margin, (3, 2, side, side), generator=generator("steps", margin))
    found = wandered(steps[:, 0], steps[:, 1], margin)
    for index in range(3):
        picture = np.arange(side * side).reshape(side, side, 1)  # with colours last, picture[h, w] is a view
        dx, dy = steps[index].numpy()
        for h in range(side - margin, margin, -1):
            for w in range(side - margin, margin, -1):
                one, other = (h, w), (h + dy[h, w], w + dx[h, w])
                picture[one], picture[other] = picture[other], picture[one]  # of views: a copy, not a swap
        assert np.array_equal(found[index].numpy(), picture[..., 0])


def test_glass_moves_pixels_up_to_the_farthest_step() -> None:
    images = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    lit = glass_blur(images, (0.05, 1, 1), torch.arange(200) * 10**12)[:, 0].nonzero()[:, 1:]
    # Every pixel takes one of the four above and to the left of it, itself included.
    assert {(int(y), int(x)) for y, x in lit} == {(16, 16), (17, 16), (16, 17), (17, 17)}
    assert 150 < len(lit) < 250


@pytest.mark.parametrize(("side", "motion"), both("motion_blur"))
def test_motion_follows_the_formula_of_imagemagick(side: int, motion: tuple[int, float], pictures: Pictures) -> None:
    radius, sigma = motion
    images = pictures(3, side)
    angles = one_each(SEEDS, -45, 45).double().numpy()
    assert np.abs(angles).max() <= 45
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = np.zeros(images.shape)
    for index, angle in enumerate(np.deg2rad(angles)):
        for i, weight in enumerate(weights):
            rows = np.clip(np.arange(side) + math.ceil(i * math.sin(angle) - 0.5), 0, side - 1)
            columns = np.clip(np.arange(side) + math.ceil(i * math.cos(angle) - 0.5), 0, side - 1)
            expected[index] += weight * images[index].numpy()[:, rows][:, :, columns]
    nearly(motion_blur(images, motion, SEEDS), np.rint(expected))


@pytest.mark.parametrize(("side", "factors"), both("zoom_blur"))
def test_zoom_is_the_mean_of_enlargements(side: int, factors: tuple[float, ...], pictures: Pictures) -> None:
    images = pictures(2, side)
    total = images.numpy().astype(float)
    for factor in factors:
        total += np.array([[enlarged(plane, factor) for plane in image] for image in images.numpy().astype(float)])
    nearly(zoom_blur(images, factors, SEEDS), total / (len(factors) + 1) + 1e-3)


@pytest.mark.parametrize("factor", [1.0, 1.25, 1.75, 2.25, 4.5])
def test_the_middle_is_enlarged_as_by_scipy(factor: float) -> None:
    plane = torch.rand(1, 1, 50, 50, generator=generator("plane"))
    expected = enlarged(plane[0, 0].double().numpy(), factor)
    torch.testing.assert_close(zoomed(plane, factor)[0, 0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def enlarged(plane: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    side = len(plane)
    crop = math.ceil(side / factor)
    start = (side - crop) // 2
    large = ndimage.zoom(plane[start : start + crop, start : start + crop], factor, order=1, mode="nearest")
    start = (len(large) - side) // 2
    return large[start : start + side, start : start + side]


@pytest.mark.parametrize(("severity", "last"), [(1, 1.06), (2, 1.1), (3, 1.15), (4, 1.2), (5, 1.25)])
def test_the_factors_of_the_small_zoom_rise_by_a_hundredth(severity: int, last: float) -> None:
    factors = CORRUPTIONS["zoom_blur"].parameters(severity, 32)
    assert factors[0] == 1
    assert np.diff(factors) == pytest.approx(0.01)
    assert factors[-1] == pytest.approx(last, abs=0.011)
