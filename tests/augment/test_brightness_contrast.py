"""Brightness and contrast: the stated formula on every level, and parameters that fill their limits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.brightness_contrast import BrightnessContrast, brightness_contrast
from groundup.augment.ranges import Span
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


@pytest.fixture
def every_level() -> Tensor:
    """50 images that hold every level, each with another mean."""
    powers = torch.linspace(0.3, 3, 50)[:, None]
    levels = ((torch.arange(768) / 767) ** powers * 255).round().to(torch.uint8)
    return levels.view(50, 3, 16, 16)


@pytest.mark.parametrize("by_max", [True, False])
def test_it_is_the_stated_formula_within_one_level(by_max: bool, every_level: Tensor) -> None:
    brightness, contrast = torch.rand(2, 50, generator=generator(0)) * 2 - 1
    result = brightness_contrast(every_level, brightness, contrast, by_max=by_max)
    for before, after, b, c in zip(every_level.double(), result.double(), brightness, contrast, strict=True):
        scale = 1 + c.double()
        exact = before * scale + b.double() * 255 if by_max else (before + b.double() * before.mean()) * scale
        # The fraction is cut off; float32 may fall just below a whole level.
        assert ((exact.clamp(0, 255).floor() - after).abs() <= 1).all()
        assert (exact.clamp(0, 255) - after).min() > -1e-3


def test_by_max_it_is_the_table_of_albumentations_1_4(every_level: Tensor) -> None:
    for b, c in ((0.2, 0.0), (-0.13, 0.4), (0.0, -0.7), (0.31, 0.17)):
        table = np.clip(np.arange(256, dtype=np.float32) * np.float32(1 + c) + np.float32(b * 255), 0, 255)
        result = brightness_contrast(every_level[:1], torch.tensor([b]), torch.tensor([c]))
        difference = np.abs(table.astype(np.uint8)[every_level[:1].numpy()].astype(int) - result.numpy().astype(int))
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.99


@pytest.mark.parametrize("by_max", [True, False])
def test_zeros_keep_every_byte(by_max: bool, every_level: Tensor) -> None:
    nothing = torch.zeros(50)
    assert torch.equal(brightness_contrast(every_level, nothing, nothing, by_max=by_max), every_level)


def test_the_ends_are_black_and_white(every_level: Tensor) -> None:
    nothing, all_of_it = torch.zeros(50), torch.ones(50)
    assert (brightness_contrast(every_level, all_of_it, nothing) == 255).all()
    assert (brightness_contrast(every_level, -all_of_it, nothing) == 0).all()
    assert (brightness_contrast(every_level, nothing, -all_of_it) == 0).all()


@pytest.mark.parametrize("by_max", [True, False])
def test_the_setting_says_what_is_added(by_max: bool, every_level: Tensor, make_batch: MakeBatch) -> None:
    settings = BrightnessContrast(name="brightness_contrast", p=1, brightness_by_max=by_max)
    drawn = settings.draw(make_batch(50), generator(0))
    expected = brightness_contrast(every_level, drawn["brightness"], drawn["contrast"], by_max=by_max)
    assert torch.equal(settings.apply(every_level, drawn), expected)


@pytest.mark.parametrize(
    ("changes", "brightness", "contrast"),
    [
        ({}, (-0.2, 0.2), (-0.2, 0.2)),
        ({"brightness_limit": 0.5, "contrast_limit": [-0.1, 0.4]}, (-0.5, 0.5), (-0.1, 0.4)),
    ],
)
def test_parameters_fill_their_limits_evenly(
    changes: dict[str, Any], brightness: Span, contrast: Span, make_batch: MakeBatch
) -> None:
    settings = BrightnessContrast.model_validate({"name": "brightness_contrast", **changes})
    drawn = settings.draw(make_batch(20_000), generator(0))
    for key, (low, high) in {"brightness": brightness, "contrast": contrast}.items():
        assert kstest(drawn[key].double(), "uniform", args=(low, high - low)).pvalue > 1e-4
    both = torch.stack([drawn["brightness"], drawn["contrast"]]).double()
    assert torch.corrcoef(both)[0, 1].abs() < 5 / 20_000**0.5, "independent of each other"
    assert abs(drawn["chosen"].double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("nothing", [0, [0.0, 0.0]])
def test_settings_that_change_nothing_are_refused(nothing: Any) -> None:
    with pytest.raises(ValidationError, match="both 0; set one above 0 or remove brightness_contrast"):
        BrightnessContrast(name="brightness_contrast", brightness_limit=nothing, contrast_limit=nothing)


@pytest.mark.parametrize(
    "changes", [{"brightness_limit": 1.5}, {"contrast_limit": -0.2}, {"contrast_limit": [0.3, -0.3]}]
)
def test_what_is_no_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        BrightnessContrast.model_validate({"name": "brightness_contrast", **changes})
