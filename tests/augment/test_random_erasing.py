"""Random erasing: one rectangle inside of the image, spread as torchvision draws it, black, mean or noise."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare, ks_2samp
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.random_erasing import RandomErasing
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def erasing(**changes: Any) -> RandomErasing:
    return RandomErasing.model_validate({"name": "random_erasing", "p": 1, **changes})


def drawn_one_by_one(size: int, scale: tuple[float, float], ratio: tuple[float, float], count: int) -> np.ndarray:
    """Heights, widths, tops and lefts (4, count) by the published algorithm; 0 by 0 if no try fits."""
    source, boxes = random.Random(0), []
    for _ in range(count):
        for _ in range(10):
            area = size * size * source.uniform(*scale)
            aspect = math.exp(source.uniform(math.log(ratio[0]), math.log(ratio[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < size and 0 < width < size:
                boxes.append((height, width, source.randint(0, size - height), source.randint(0, size - width)))
                break
        else:
            boxes.append((0, 0, 0, 0))
    return np.array(boxes).T


@pytest.mark.parametrize(("scale", "ratio"), [((0.02, 0.33), (0.3, 3.3)), ((0.3, 0.9), (0.2, 1))])
def test_rectangles_are_spread_as_those_drawn_one_by_one(
    scale: tuple[float, float], ratio: tuple[float, float], make_batch: MakeBatch
) -> None:
    drawn = erasing(scale=scale, ratio=ratio).draw(make_batch(20_000, size=32), generator(0))
    found = drawn["height"] > 0
    expected = drawn_one_by_one(32, scale, ratio, 20_000)
    fits = expected[0] > 0
    assert abs(found.double().mean().item() - fits.mean()) < 0.01
    seen = np.stack([drawn[key][found] for key in ("height", "width", "top", "left")])
    for mine, theirs in zip(seen, expected[:, fits], strict=True):
        assert ks_2samp(mine, theirs).pvalue > 1e-4
    assert ks_2samp(seen[0] * seen[1], np.prod(expected[:2, fits], 0)).pvalue > 1e-4


@pytest.mark.parametrize(("value", "colour"), [("zero", [0, 0, 0]), ("mean", [102, 128, 153])])
def test_exactly_the_rectangle_is_blanked_in_the_colour(value: str, colour: list[int], make_batch: MakeBatch) -> None:
    white = torch.full((64, 3, 16, 16), 255, dtype=torch.uint8)
    settings = erasing(value=value)
    drawn = settings.draw(make_batch(), generator(0))
    expected = white.clone()
    for image, top, left, height, width in zip(
        expected, *(drawn[key].tolist() for key in ("top", "left", "height", "width")), strict=True
    ):
        image[:, top : top + height, left : left + width] = torch.tensor(colour)[:, None, None]
    assert torch.equal(settings.apply(white, drawn), expected)


def test_noise_has_every_byte_equally_often_and_differs_from_image_to_image(make_batch: MakeBatch) -> None:
    settings = erasing(value="noise", scale=(0.2, 0.3))
    drawn = settings.draw(make_batch(512, size=32), generator(0))
    results = [settings.apply(torch.full((512, 3, 32, 32), base, dtype=torch.uint8), drawn) for base in (0, 255)]
    erased = results[0] == results[1]  # where nothing of the image is left
    rows = torch.arange(32)
    inside = (rows >= drawn["top"][:, None]) & (rows < (drawn["top"] + drawn["height"])[:, None])
    assert torch.equal(erased[:, 0].any(2), inside)
    values = results[0][erased]
    assert chisquare(torch.bincount(values.int(), minlength=256).numpy()).pvalue > 1e-4
    same = (results[0][0] == results[0][1])[erased[0] & erased[1]]
    assert same.double().mean() < 0.1


def test_where_no_rectangle_fits_the_image_is_kept(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = erasing(scale=(0.9, 0.9), ratio=(3, 3.3))
    drawn = settings.draw(make_batch(), generator(0))
    assert torch.equal(settings.apply(digit_images, drawn), digit_images)


def test_a_share_of_p_is_changed(digit_images: Tensor, make_batch: MakeBatch) -> None:
    chosen = erasing(p=0.25).draw(make_batch(20_000), generator(0))["chosen"].double()
    assert abs(chosen.mean() - 0.25) < 5 * (0.1875 / 20_000) ** 0.5
    settings = erasing(p=0.25, value="mean")
    drawn = settings.draw(make_batch(), generator(0))
    changed = (settings.apply(digit_images, drawn) != digit_images).flatten(1).any(1)
    assert torch.equal(changed, drawn["chosen"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": [0, 0.3]}, "greater than 0"),
        ({"scale": [1, 1]}, "lower the first"),
        ({"scale": [0.3, 0.1]}, r"write \[0.1, 0.3\]"),
        ({"ratio": [0, 3]}, "greater than 0"),
        ({"p": 0}, "greater than 0"),
        ({"value": "white"}, "zero"),
    ],
)
def test_settings_that_cannot_act_or_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        erasing(**settings)
