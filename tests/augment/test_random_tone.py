"""Small operations on tones: the share p of the images is changed, by the one function and setting they name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.augment import Batch, colour
from groundup.augment.random_tone import (
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomGrayscale,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def parameter(value: float) -> Tensor:
    return torch.full((64,), value)


# Settings class, its settings, the probability without any, what it does to a batch of 64.
CASES: dict[str, tuple[Any, dict[str, Any], float, Callable[[Tensor], Tensor]]] = {
    "random_grayscale": (RandomGrayscale, {}, 0.1, colour.grayscale),
    "random_solarize": (RandomSolarize, {}, 0.5, lambda x: colour.solarize(x, parameter(128))),
    "random_solarize, low": (RandomSolarize, {"threshold": 30}, 0.5, lambda x: colour.solarize(x, parameter(30))),
    "random_posterize": (RandomPosterize, {}, 0.5, lambda x: colour.posterize(x, parameter(4))),
    "random_posterize, 1 bit": (RandomPosterize, {"bits": 1}, 0.5, lambda x: colour.posterize(x, parameter(1))),
    "random_autocontrast": (RandomAutocontrast, {}, 0.5, colour.autocontrast),
    "random_equalize": (RandomEqualize, {}, 0.5, colour.equalize),
    "random_invert": (RandomInvert, {}, 0.5, colour.invert),
    "random_adjust_sharpness": (RandomAdjustSharpness, {}, 0.5, lambda x: colour.sharpness(x, parameter(2.0))),
    "random_adjust_sharpness, smooth": (
        RandomAdjustSharpness,
        {"sharpness_factor": 0.3},
        0.5,
        lambda x: colour.sharpness(x, parameter(0.3)),
    ),
}
every_case = pytest.mark.parametrize("case", list(CASES))


def settings_of(case: str, **more: Any) -> Any:
    made_of, changes, _, _ = CASES[case]
    return made_of.model_validate({"name": case.split(",")[0], **changes, **more})


@every_case
def test_with_p_1_all_images_are_changed_as_its_function_changes_them(
    case: str, digit_images: Tensor, make_batch: MakeBatch
) -> None:
    settings = settings_of(case, p=1)
    drawn = settings.draw(make_batch(), generator(0))
    assert torch.equal(settings.apply(digit_images, drawn), CASES[case][3](digit_images))


@every_case
def test_the_images_that_are_not_chosen_are_kept(case: str, digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = settings_of(case, p=0.5)
    drawn = settings.draw(make_batch(), generator(0))
    result, chosen = settings.apply(digit_images, drawn), drawn["chosen"]
    assert 0 < chosen.sum() < 64
    assert torch.equal(result[~chosen], digit_images[~chosen])
    assert torch.equal(result[chosen], CASES[case][3](digit_images)[chosen])


@every_case
def test_the_share_that_is_chosen_is_p_and_nothing_else_is_drawn(case: str, make_batch: MakeBatch) -> None:
    for changes, p in (({}, CASES[case][2]), ({"p": 0.8}, 0.8)):
        drawn = settings_of(case, **changes).draw(make_batch(20_000), generator(0))
        assert drawn.keys() == {"chosen"}
        assert abs(drawn["chosen"].double().mean() - p) < 5 * (p * (1 - p) / 20_000) ** 0.5


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("random_posterize", {"bits": 8}),
        ("random_solarize", {"threshold": 256}),
        ("random_adjust_sharpness", {"sharpness_factor": 1}),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(case: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        settings_of(case, **changes)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("random_posterize", {"bits": 0}),
        ("random_solarize", {"threshold": -1}),
        ("random_adjust_sharpness", {"sharpness_factor": -0.5}),
        ("random_invert", {"p": 0}),
    ],
)
def test_a_setting_outside_its_range_is_refused(case: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        settings_of(case, **changes)
