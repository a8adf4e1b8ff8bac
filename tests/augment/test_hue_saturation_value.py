"""Hue, saturation and value: shifts in OpenCV's units, as the formulas of HSV give them for every pixel."""

import colorsys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from groundup.augment import Batch, colour
from groundup.augment.hue_saturation_value import HueSaturationValue, shift_hsv
from groundup.augment.ranges import Span
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


@pytest.fixture
def coloured() -> Tensor:
    """40 images of noise; eight of them of few levels, so that grey, black and pure colours are among the pixels."""
    images = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=generator(0))
    images[:8] = images[:8] // 128 * 255
    return images


def shifted(pixel: Tensor, hue: float, saturation: float, value: float) -> list[int]:
    h, s, v = colorsys.rgb_to_hsv(*(pixel.double() / 255).tolist())
    s, v = (min(max(x + shift / 255, 0), 1) for x, shift in ((s, saturation), (v, value)))
    return [round(255 * share) for share in colorsys.hsv_to_rgb((h + hue / 180) % 1, s, v)]


def test_it_is_the_formula_of_hsv_to_the_nearest_level(coloured: Tensor) -> None:
    shifts = (torch.rand(3, 40, generator=generator(1)) * 2 - 1) * torch.tensor([[90], [150], [150]])
    result = shift_hsv(coloured, *shifts)
    expected = torch.tensor(
        [[shifted(pixel, *shifts[:, i].tolist()) for pixel in image.flatten(1).T] for i, image in enumerate(coloured)]
    )
    difference = (result.flatten(2).transpose(1, 2).long() - expected).abs()
    assert difference.max() <= 1
    assert (difference == 0).double().mean() > 0.999, "only ties may fall on the other side"


def test_zeros_keep_every_byte(coloured: Tensor) -> None:
    assert torch.equal(shift_hsv(coloured, *torch.zeros(3, 40)), coloured)


def test_hue_counts_in_steps_of_2_degrees(coloured: Tensor) -> None:
    hue = torch.linspace(-90, 90, 40)
    nothing = torch.zeros(40)
    assert torch.equal(shift_hsv(coloured, hue, nothing, nothing), colour.adjust_hue(coloured, hue / 180))


def test_the_lowest_saturation_is_grey_and_the_lowest_value_black(coloured: Tensor) -> None:
    nothing, lowest = torch.zeros(40), torch.full((40,), -255.0)
    grey = shift_hsv(coloured, nothing, lowest, nothing)
    assert torch.equal(grey, coloured.amax(1, keepdim=True).expand_as(coloured))
    assert not shift_hsv(coloured, nothing, nothing, lowest).any()


def test_white_is_tinted_red_by_a_higher_saturation() -> None:
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    tinted = shift_hsv(white, torch.zeros(1), torch.tensor([30.0]), torch.zeros(1))
    assert tinted.flatten().tolist() == [255, 225, 225]


@pytest.mark.parametrize(
    ("changes", "spans"),
    [
        ({}, {"hue": (-20, 20), "saturation": (-30, 30), "value": (-20, 20)}),
        (
            {"hue_shift_limit": [-5, 15], "sat_shift_limit": 60, "val_shift_limit": [10, 40]},
            {"hue": (-5, 15), "saturation": (-60, 60), "value": (10, 40)},
        ),
    ],
)
def test_parameters_fill_their_limits_evenly(
    changes: dict[str, Any], spans: dict[str, Span], make_batch: MakeBatch
) -> None:
    settings = HueSaturationValue.model_validate({"name": "hue_saturation_value", **changes})
    drawn = settings.draw(make_batch(20_000), generator(0))
    for key, (low, high) in spans.items():
        assert kstest(drawn[key].double(), "uniform", args=(low, high - low)).pvalue > 1e-4
    table = torch.stack([drawn[key].double() for key in spans])
    assert (torch.corrcoef(table) - torch.eye(3)).abs().max() < 5 / 20_000**0.5, "independent of each other"
    assert abs(drawn["chosen"].double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5


def test_the_parameters_that_are_drawn_are_the_ones_applied(coloured: Tensor, make_batch: MakeBatch) -> None:
    settings = HueSaturationValue(name="hue_saturation_value", p=1)
    drawn = settings.draw(make_batch(40), generator(0))
    expected = shift_hsv(coloured, drawn["hue"], drawn["saturation"], drawn["value"])
    assert torch.equal(settings.apply(coloured, drawn), expected)


def test_settings_that_change_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="all 0; set one above 0 or remove hue_saturation_value"):
        HueSaturationValue(name="hue_saturation_value", hue_shift_limit=0, sat_shift_limit=(0, 0), val_shift_limit=0)


@pytest.mark.parametrize("changes", [{"hue_shift_limit": 91}, {"sat_shift_limit": -1}, {"val_shift_limit": [20, 10]}])
def test_what_is_no_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        HueSaturationValue.model_validate({"name": "hue_saturation_value", **changes})
