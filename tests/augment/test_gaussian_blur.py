"""Gaussian blur: a width of its own for every image, kernels that fit, widths that act."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from groundup.augment import Batch, colour
from groundup.augment.gaussian_blur import GaussianBlur
from groundup.augment.ranges import Span
from groundup.basis.errors import UsageError
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def blur(**changes: Any) -> GaussianBlur:
    return GaussianBlur.model_validate({"name": "gaussian_blur", **changes})


def test_the_chosen_images_are_blurred_with_their_own_width(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = blur(kernel_size=5)
    drawn = settings.draw(make_batch(), generator(0))
    result, chosen = settings.apply(digit_images, drawn), drawn["chosen"]
    assert 0 < chosen.sum() < 64
    assert torch.equal(result[~chosen], digit_images[~chosen])
    assert torch.equal(result[chosen], colour.gaussian_blur(digit_images, drawn["sigma"], 5)[chosen])


@pytest.mark.parametrize(("sigma", "span"), [([0.1, 2.0], (0.1, 2.0)), ([1, 4], (1, 4))])
def test_widths_fill_their_range_evenly(sigma: list[float], span: Span, make_batch: MakeBatch) -> None:
    drawn = blur(sigma=sigma).draw(make_batch(20_000), generator(0))
    assert kstest(drawn["sigma"].double(), "uniform", args=(span[0], span[1] - span[0])).pvalue > 1e-4
    assert abs(drawn["chosen"].double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5


def test_one_number_is_the_width_of_all(make_batch: MakeBatch) -> None:
    assert (blur(sigma=1.5).draw(make_batch(), generator(0))["sigma"] == 1.5).all()


def test_a_kernel_that_reaches_beyond_the_mirrored_image_is_refused(make_batch: MakeBatch) -> None:
    assert blur(kernel_size=15).draw(make_batch(size=8), generator(0)).keys() == {"chosen", "sigma"}
    with pytest.raises(UsageError, match=r"kernel_size=17 .* images of 8 px; allowed: odd numbers up to 15"):
        blur(kernel_size=17).draw(make_batch(size=8), generator(0))


def test_the_largest_kernel_that_is_allowed_works(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = blur(kernel_size=31, p=1)
    assert settings.apply(digit_images, settings.draw(make_batch(), generator(0))).shape == digit_images.shape


@pytest.mark.parametrize(("size", "hint"), [(4, "write 3 or 5"), (1, "greater than or equal to 3")])
def test_a_kernel_without_a_middle_or_without_neighbours_is_refused(size: int, hint: str) -> None:
    with pytest.raises(ValidationError, match=hint):
        blur(kernel_size=size)


@pytest.mark.parametrize("sigma", [0.2, [0.1, 0.25]])
def test_widths_that_change_nothing_are_refused(sigma: Any) -> None:
    with pytest.raises(ValidationError, match=r"changes no level; use 0\.3 px or more"):
        blur(sigma=sigma)


@pytest.mark.parametrize(("sigma", "changes"), [(0.25, False), (0.3, True)])
def test_from_0_3_px_on_a_blur_can_be_seen(sigma: float, changes: bool) -> None:
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255).to(torch.uint8).expand(1, 3, 16, 16)
    assert torch.equal(colour.gaussian_blur(board, torch.tensor([sigma]), 3), board) is not changes


@pytest.mark.parametrize("sigma", [0, -1, [0, 2], [2, 1]])
def test_what_is_no_width_or_range_is_refused(sigma: Any) -> None:
    with pytest.raises(ValidationError, match="sigma"):
        blur(sigma=sigma)
