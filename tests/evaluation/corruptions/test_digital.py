"""Contrast, elastic transform, pixelate and JPEG against NumPy, SciPy and Pillow."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from groundup.evaluation.corruptions import CORRUPTIONS, corrupt
from groundup.evaluation.corruptions.base import uniform
from groundup.evaluation.corruptions.digital import box_resize, contrast, elastic_transform

Pictures = Callable[[int, int], Tensor]
SEEDS = torch.tensor([5, 6, 7])


def pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    changed = [np.asarray(change(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in images]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("factor", [0.75, 0.3, 0.05])
def test_contrast_keeps_a_share_of_the_distance_to_the_mean(factor: float, pictures: Pictures) -> None:
    images = pictures(3, 32)
    x = images.numpy() / 255
    means = x.mean((2, 3), keepdims=True)
    expected = (((x - means) * factor + means) * 255 + 1e-3).astype(np.uint8)
    assert np.mean(contrast(images, factor, SEEDS).numpy() == expected) > 0.999


def affine(image: NDArray[np.float64], moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image (3, S, S) under the map of three points by `moves` (3, 2), columns x and y."""
    side = image.shape[1]
    middle, reach = side // 2, side // 3
    points = np.array([[middle + reach, middle + reach], [middle + reach, middle - reach], [middle - reach] * 2], float)
    back = np.linalg.solve(
        np.c_[points + moves, np.ones(3)], points
    )  # rows (x, y, 1) of the result -> (x, y) of the image
    y, x = np.mgrid[:side, :side]
    source = np.c_[x.ravel(), y.ravel(), np.ones(side * side)] @ back
    return np.stack([ndimage.map_coordinates(plane, source[:, ::-1].T, order=1, mode="mirror") for plane in image])


@pytest.mark.parametrize(
    ("side", "elastic"),
    [(32, one) for one in CORRUPTIONS["elastic_transform"].small]
    + [(72, one) for one in CORRUPTIONS["elastic_transform"].large],
)
def test_elastic_is_an_affine_map_and_smooth_displacements(
    side: int, elastic: tuple[float, float, float], pictures: Pictures
) -> None:
    images = pictures(3, side)
    strength, sigma, farthest = (share * side for share in elastic)
    moves = (uniform(SEEDS, 1, 3, 2)[:, 0].double().numpy() * 2 - 1) * farthest
    noise = uniform(SEEDS + 1, 2, side, side).double().numpy() * 2 - 1
    y, x = np.mgrid[:side, :side]
    expected = []
    for image, move, fields in zip(images.numpy().astype(float), moves, noise, strict=True):
        moved = affine(image, move).reshape(3, side, side)
        dx, dy = (ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) * strength for field in fields)
        expected.append([ndimage.map_coordinates(plane, [y + dy, x + dx], order=1, mode="reflect") for plane in moved])
    apart = np.abs(elastic_transform(images, elastic, SEEDS).numpy() - np.floor(np.array(expected) + 1e-3))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


@pytest.mark.parametrize(
    ("side", "severity"), [(side, severity) for side in (28, 32, 64, 96, 224) for severity in (1, 3, 5)]
)
def test_pixelate_is_pillows_box_both_ways(side: int, severity: int, pictures: Pictures) -> None:
    images = pictures(2, side)
    small = int(side * CORRUPTIONS["pixelate"].parameters(severity, side))
    box = Image.Resampling.BOX
    expected = pillow(images, lambda image: image.resize((small, small), box).resize((side, side), box))
    assert torch.equal(corrupt(images, "pixelate", severity, 0), expected)


@pytest.mark.parametrize("side", [1, 5, 16, 31, 32, 33, 57, 100])
def test_the_box_resize_gives_pillows_bytes_for_any_side(side: int, pictures: Pictures) -> None:
    images = pictures(2, 32)
    expected = pillow(images, lambda image: image.resize((side, side), Image.Resampling.BOX))
    assert torch.equal(box_resize(images, side), expected)


@pytest.mark.parametrize(("side", "qualities"), [(32, [80, 65, 58, 50, 40]), (72, [25, 18, 15, 10, 7])])
def test_jpeg_is_pillows_of_the_published_qualities(side: int, qualities: list[int], pictures: Pictures) -> None:
    def through(image: Image.Image, quality: int) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    images = pictures(11, side)  # more than there are parts, and no multiple of them
    for severity, quality in enumerate(qualities, 1):
        expected = pillow(images, lambda image, quality=quality: through(image, quality))
        assert torch.equal(corrupt(images, "jpeg_compression", severity, 0), expected)
