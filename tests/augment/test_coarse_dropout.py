"""Coarse dropout: as many holes as are drawn, each inside of the image, with sides as the settings say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.coarse_dropout import CoarseDropout, coarse_dropout
from groundup.augment.random_resized_crop import boxes_of
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def dropout(**changes: Any) -> CoarseDropout:
    return CoarseDropout.model_validate({"name": "coarse_dropout", "p": 1, **changes})


@pytest.mark.parametrize("holes", [(1, 1), (2, 9), (62, 62)])
def test_exactly_the_holes_are_blank(holes: tuple[int, int], digit_images: Tensor, make_batch: MakeBatch) -> None:
    drawn = dropout(holes=holes).draw(make_batch(), generator(0))
    expected = digit_images.clone()
    for place, image in enumerate(expected):
        for top, left, height, width in zip(*(each[place].tolist() for each in boxes_of(drawn)), strict=True):
            image[:, top : top + height, left : left + width] = drawn["fill"][place][:, None, None]
    assert torch.equal(coarse_dropout(digit_images, boxes_of(drawn), drawn["fill"]), expected)


def test_every_number_of_holes_is_equally_likely(make_batch: MakeBatch) -> None:
    drawn = dropout(holes=(3, 7)).draw(make_batch(20_000), generator(0))
    counts = torch.bincount((drawn["height"] > 0).sum(1), minlength=8)
    assert counts[:3].sum() == 0
    assert len(counts) == 8
    assert chisquare(counts[3:].numpy()).pvalue > 1e-4
    assert torch.equal(drawn["height"] > 0, drawn["width"] > 0)


@pytest.mark.parametrize(
    ("settings", "shortest", "longest"),
    [
        ({"unit": "px", "side": [2, 5]}, 2, 5),
        ({"unit": "share", "side": [0.125, 0.5]}, 4, 16),
        ({"side": [0.001, 0.01]}, 1, 1),  # a hole has at least 1 px
        ({"unit": "px", "side": [30, 40]}, 30, 32),  # and at most the image
    ],
)
def test_every_side_is_equally_likely_and_height_and_width_are_independent(
    settings: dict[str, Any], shortest: int, longest: int, make_batch: MakeBatch
) -> None:
    drawn = dropout(holes=(1, 1), **settings).draw(make_batch(20_000, size=32), generator(0))
    values = longest - shortest + 1
    pairs = (drawn["height"] - shortest) * values + drawn["width"] - shortest
    assert int(drawn["height"].min()) == shortest
    assert int(drawn["width"].max()) == longest
    assert values == 1 or chisquare(torch.bincount(pairs.flatten(), minlength=values**2).numpy()).pvalue > 1e-4


def test_every_place_inside_of_the_image_is_equally_likely(make_batch: MakeBatch) -> None:
    drawn = dropout(holes=(2, 2), unit="px", side=[3, 3]).draw(make_batch(20_000, size=8), generator(0))
    counts = torch.bincount((drawn["top"] * 6 + drawn["left"]).flatten(), minlength=36)
    assert len(counts) == 36
    assert chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize(("fill", "colour"), [("mean", [102, 128, 153]), ("black", [0, 0, 0])])
def test_the_colour_is_the_mean_of_the_data_or_black(fill: str, colour: list[int], make_batch: MakeBatch) -> None:
    assert (dropout(fill=fill).draw(make_batch(), generator(0))["fill"] == torch.tensor(colour)).all()


def test_a_share_of_p_is_changed(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = dropout(p=0.3)
    chosen = settings.draw(make_batch(20_000), generator(0))["chosen"].double()
    assert abs(chosen.mean() - 0.3) < 5 * (0.21 / 20_000) ** 0.5
    drawn = settings.draw(make_batch(), generator(0))
    changed = (settings.apply(digit_images, drawn) != digit_images).flatten(1).any(1)
    assert torch.equal(changed, drawn["chosen"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"holes": [0, 3]}, "greater than or equal to 1"),
        ({"holes": [1, 63]}, "less than or equal to 62"),
        ({"holes": [3, 1]}, r"write \[1, 3\]"),
        ({"side": [4, 8]}, "set unit: px"),
        ({"side": [1, 1]}, "blank the whole image"),
        ({"side": [0, 0.5]}, "greater than 0"),
        ({"side": [0.1, 0.2], "unit": "px"}, "set unit: share"),
        ({"side": [1, 2.5], "unit": "px"}, "whole numbers"),
        ({"side": [0.5, 0.1]}, r"write \[0.1, 0.5\]"),
    ],
)
def test_settings_that_cannot_act_or_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        dropout(**settings)
