"""Colour jitter: each image its own factors and its own order, as if the four changes were made to it alone."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from scipy.stats import chisquare, kstest
from torch import Tensor

from groundup.augment import Batch, colour
from groundup.augment.color_jitter import ColorJitter, color_jitter
from groundup.augment.ranges import Span
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]
ORDERS = torch.tensor(list(itertools.permutations(range(4))))
CHANGES = [colour.brightness, colour.contrast, colour.saturation, colour.adjust_hue]


def jitter(**changes: Any) -> ColorJitter:
    return ColorJitter.model_validate({"name": "color_jitter", **changes})


@pytest.fixture
def coloured() -> Tensor:
    """48 images of noise in bright colours: every order of changes gives other bytes."""
    return torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=generator(0))


@pytest.fixture
def amounts() -> dict[str, Tensor]:
    factors = {key: 0.5 + torch.rand(48, generator=generator(key)) for key in ("brightness", "contrast", "saturation")}
    return {**factors, "hue": torch.rand(48, generator=generator("hue")) - 0.5}


def test_every_order_gives_what_the_changes_give_one_after_the_other(
    coloured: Tensor, amounts: dict[str, Tensor]
) -> None:
    order = ORDERS.repeat(2, 1)
    together = color_jitter(coloured, order, amounts)
    values = list(amounts.values())
    for i in range(48):
        image = coloured[i : i + 1]
        for number in order[i].tolist():
            image = CHANGES[number](image, values[number][i : i + 1])
        assert torch.equal(together[i : i + 1], image)


def test_the_order_matters(coloured: Tensor, amounts: dict[str, Tensor]) -> None:
    one, other = (color_jitter(coloured, ORDERS[[place] * 48], amounts) for place in (0, 23))
    assert not torch.equal(one, other)


def test_what_is_not_named_is_not_changed_and_the_rest_is_pillows(coloured: Tensor, amounts: dict[str, Tensor]) -> None:
    chosen = {key: amounts[key] for key in ("brightness", "saturation")}
    order = torch.tensor([[2, 1, 3, 0]]).expand(48, 4)  # saturation before brightness
    for i, result in enumerate(color_jitter(coloured, order, chosen)):
        picture = Image.fromarray(coloured[i].permute(1, 2, 0).contiguous().numpy())
        picture = ImageEnhance.Color(picture).enhance(chosen["saturation"][i].item())
        picture = ImageEnhance.Brightness(picture).enhance(chosen["brightness"][i].item())
        np.testing.assert_array_equal(result.permute(1, 2, 0), np.array(picture))


def test_every_order_is_equally_likely(make_batch: MakeBatch) -> None:
    order = jitter().draw(make_batch(24_000), generator(0))["order"]
    digits = (order * torch.tensor([64, 16, 4, 1])).sum(1)
    expected = (ORDERS * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = torch.stack([(digits == each).sum() for each in expected])
    assert counts.sum() == 24_000, "each row is a permutation"
    assert chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("key", "strength", "span"),
    [
        ("brightness", 0.4, (0.6, 1.4)),
        ("contrast", 1.5, (0.0, 2.5)),
        ("saturation", [0.2, 0.9], (0.2, 0.9)),
        ("hue", 0.1, (-0.1, 0.1)),
        ("hue", [0.1, 0.3], (0.1, 0.3)),
    ],
)
def test_parameters_fill_their_range_evenly(key: str, strength: Any, span: Span, make_batch: MakeBatch) -> None:
    drawn = jitter(**{key: strength}).draw(make_batch(20_000), generator(0))
    assert kstest(drawn[key].double(), "uniform", args=(span[0], span[1] - span[0])).pvalue > 1e-4


def test_parameters_of_one_image_are_independent(make_batch: MakeBatch) -> None:
    drawn = jitter(hue=0.1).draw(make_batch(20_000), generator(0))
    table = torch.stack([drawn[key].double() for key in ("brightness", "contrast", "saturation", "hue")])
    assert (torch.corrcoef(table) - torch.eye(4)).abs().max() < 5 / 20_000**0.5


def test_a_share_of_p_is_changed_and_the_others_are_kept(coloured: Tensor, make_batch: MakeBatch) -> None:
    drawn = jitter(p=0.3).draw(make_batch(20_000), generator(0))
    assert abs(drawn["chosen"].double().mean() - 0.3) < 5 * (0.3 * 0.7 / 20_000) ** 0.5
    few = {key: value[:48] for key, value in drawn.items()}
    result = jitter(p=0.3).apply(coloured, few)
    assert torch.equal((result != coloured).flatten(1).any(1), few["chosen"])


@pytest.mark.parametrize("hue", [0, [0.0, 0.0]])
@pytest.mark.parametrize("factor", [0, [1.0, 1.0]])
def test_settings_that_change_nothing_are_refused(hue: Any, factor: Any) -> None:
    with pytest.raises(ValidationError, match="set one above 0 or remove color_jitter"):
        jitter(brightness=factor, contrast=factor, saturation=factor, hue=hue)


@pytest.mark.parametrize(
    "changes",
    [
        {"brightness": -0.1},
        {"contrast": [-0.5, 1]},
        {"hue": 0.6},
        {"hue": -0.1},
        {"hue": [-0.6, 0]},
        {"saturation": [1.2, 0.8]},
    ],
)
def test_what_is_no_strength_or_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        jitter(**changes)
