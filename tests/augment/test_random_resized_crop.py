"""Random resized crop equals Pillow's crop and resize, with windows as torchvision draws them."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.stats import ks_2samp, kstest
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.random_resized_crop import (
    Boxes,
    RandomResizedCrop,
    centre_box,
    crop_boxes,
    random_boxes,
    resized_crop,
)
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]
CPU = torch.device("cpu")


def drawn_one_by_one(size: int, scale: tuple[float, float], ratio: tuple[float, float], count: int) -> np.ndarray:
    """Heights, widths, tops and lefts (4, count) by the published algorithm, one image at a time."""
    source, boxes = random.Random(0), []
    for _ in range(count):
        for _ in range(10):
            area = size * size * source.uniform(*scale)
            aspect = math.exp(source.uniform(math.log(ratio[0]), math.log(ratio[1])))
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= size and 0 < height <= size:
                boxes.append((height, width, source.randint(0, size - height), source.randint(0, size - width)))
                break
        else:
            boxes.append((size, size, 0, 0))
    return np.array(boxes).T


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_it_equals_pillows_crop_and_resize(interpolation: str, digit_images: Tensor) -> None:
    boxes = crop_boxes(64, 16, 16, (0.08, 1), (3 / 4, 4 / 3), generator(0), CPU)
    way = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.NEAREST
    expected = []
    for image, top, left, height, width in zip(digit_images, *(each.tolist() for each in boxes), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        cut = picture.crop((left, top, left + width, top + height)).resize((16, 16), way)
        expected.append(torch.from_numpy(np.array(cut)).permute(2, 0, 1))
    difference = resized_crop(digit_images, boxes, interpolation=interpolation).int() - torch.stack(expected).int()
    assert difference.abs().max() <= (1 if interpolation == "bilinear" else 0)


def test_nothing_from_around_the_window_is_seen() -> None:
    image = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    image[:, :, 4:10, 3:8] = 7
    window = Boxes(*(torch.tensor([number]) for number in (4, 3, 6, 5)))
    for interpolation in ("bilinear", "nearest"):
        assert (resized_crop(image, window, interpolation=interpolation) == 7).all()


def test_the_whole_image_as_window_is_the_image(digit_images: Tensor) -> None:
    zero, whole = torch.zeros(64, dtype=torch.int64), torch.full((64,), 16)
    for interpolation in ("bilinear", "nearest"):
        assert torch.equal(
            resized_crop(digit_images, Boxes(zero, zero, whole, whole), interpolation=interpolation), digit_images
        )


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1), (3 / 4, 4 / 3)), ((0.25, 1), (0.5, 3)), ((0.9, 1), (3 / 4, 4 / 3))]
)
def test_windows_are_spread_as_those_drawn_one_by_one(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    boxes = crop_boxes(20_000, 32, 32, scale, ratio, generator(0), CPU)
    expected = drawn_one_by_one(32, scale, ratio, 20_000)
    seen = np.stack([boxes.height, boxes.width, boxes.top, boxes.left])
    for mine, theirs in zip(seen, expected, strict=True):
        assert ks_2samp(mine, theirs).pvalue > 1e-4
    assert ks_2samp(seen[0] * seen[1], expected[0] * expected[1]).pvalue > 1e-4
    assert ks_2samp(seen[0] / seen[1], expected[0] / expected[1]).pvalue > 1e-4


def test_area_is_uniform_and_shape_log_uniform_where_every_window_fits() -> None:
    boxes = random_boxes(20_000, 2000, 2000, (0.1, 0.4), (0.5, 2), generator(0), CPU)
    area = boxes.height * boxes.width / 2000**2
    assert kstest(area.numpy(), "uniform", args=(0.1, 0.3)).pvalue > 1e-4
    shape = (boxes.width / boxes.height).log2()
    assert kstest(shape.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-4


def test_windows_lie_inside_and_reach_both_borders() -> None:
    boxes = crop_boxes(20_000, 8, 8, (0.3, 1), (3 / 4, 4 / 3), generator(0), CPU)
    for start, length in ((boxes.top, boxes.height), (boxes.left, boxes.width)):
        assert length.min() >= 1
        for size in length.unique().tolist():
            assert start[length == size].unique().tolist() == list(range(8 - size + 1))


@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [
        (32, 32, (3 / 4, 4 / 3), (32, 32)),
        (32, 32, (2, 3), (16, 32)),
        (32, 32, (0.25, 0.5), (32, 16)),
        (10, 40, (0.5, 2), (10, 20)),
    ],
)
def test_where_no_try_fits_the_largest_window_in_the_centre_is_taken(
    height: int, width: int, ratio: tuple[float, float], expected: tuple[int, int]
) -> None:
    assert centre_box(height, width, ratio) == expected
    # The whole area in another shape than the image's never fits.
    if ratio[0] > width / height or ratio[1] < width / height:
        boxes = crop_boxes(50, height, width, (1, 1), ratio, generator(0), CPU)
        tall, wide = expected
        for part, value in zip(boxes, ((height - tall) // 2, (width - wide) // 2, tall, wide), strict=True):
            assert (part == value).all()


def test_the_settings_reach_the_windows(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = RandomResizedCrop(name="random_resized_crop", scale=(0.25, 0.25), ratio=(1, 1), p=0.5)
    drawn = settings.draw(make_batch(), generator(0))
    assert (drawn["height"] == 8).all()
    assert (drawn["width"] == 8).all()
    result = settings.apply(digit_images, drawn)
    kept = ~drawn["chosen"]
    assert 0 < kept.sum() < 64
    assert torch.equal(result[kept], digit_images[kept])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": [1, 1]}, "cuts nothing off"),
        ({"scale": [0, 1]}, "greater than 0"),
        ({"scale": [0.5, 1.5]}, "less than or equal to 1"),
        ({"scale": [1, 0.5]}, r"write \[0.5, 1\]"),
        ({"ratio": [0, 1]}, "greater than 0"),
    ],
)
def test_settings_that_cannot_act_or_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RandomResizedCrop.model_validate({"name": "random_resized_crop", **settings})


def windows(settings: RandomResizedCrop, sizes: Tensor, indices: Tensor, epoch: int = 0, seed: int = 0) -> np.ndarray:
    return settings.windows(sizes, indices, epoch, seed).T.numpy()


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1), (3 / 4, 4 / 3)), ((0.25, 1), (0.5, 3)), ((0.9, 1), (3 / 4, 4 / 3))]
)
@pytest.mark.parametrize("size", [(64, 64), (375, 500), (40, 200)])
def test_windows_cut_at_load_are_spread_as_those_of_the_device(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    settings = RandomResizedCrop(name="random_resized_crop", scale=scale, ratio=ratio)
    count = 20_000
    expected = crop_boxes(count, *size, scale, ratio, generator(0), CPU)
    seen = windows(settings, torch.tensor([size]).expand(count, 2), torch.arange(count))
    for mine, theirs in zip(seen, expected, strict=True):
        assert ks_2samp(mine, theirs.numpy()).pvalue > 1e-4
    top, left, height, width = seen
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()


def test_a_window_cut_at_load_depends_on_seed_epoch_image_and_size_alone() -> None:
    settings = RandomResizedCrop(name="random_resized_crop")
    sizes, indices = torch.tensor([[300, 400], [64, 64], [90, 20], [300, 400]]), torch.tensor([5, 9, 2**40, 6])
    together = settings.windows(sizes, indices, 3, 1)
    for place in range(4):
        alone = settings.windows(sizes[place : place + 1], indices[place : place + 1], 3, 1)
        assert torch.equal(alone[0], together[place])
    for epoch, seed in ((4, 1), (3, 2)):
        assert (settings.windows(sizes, indices, epoch, seed) != together).any(1).all()
    assert (together[0] != together[3]).any(), "two images of one size"


def test_where_no_try_fits_an_image_cut_at_load_the_largest_centred_window_is_taken() -> None:
    settings = RandomResizedCrop(name="random_resized_crop", scale=(1, 1), ratio=(0.5, 0.9))
    seen = windows(settings, torch.tensor([[40, 40], [10, 40]]), torch.tensor([0, 1]))
    assert seen.T.tolist() == [[0, 2, 40, 36], [0, 15, 10, 9]]


def test_images_that_are_not_chosen_stay_whole_at_load() -> None:
    settings = RandomResizedCrop(name="random_resized_crop", p=0.25)
    height = windows(settings, torch.tensor([[50, 60]]).expand(4000, 2), torch.arange(4000))[2]
    assert 0.22 < (height > 0).mean() < 0.28
