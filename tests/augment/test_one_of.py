"""One of several operations: each image gets exactly one, as often as its weight says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch, OperationSettings
from groundup.augment.flip import flip
from groundup.augment.one_of import OneOf
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]
LEFT_RIGHT, TOP_BOTTOM, CUT = {"name": "flip", "p": 1}, {"name": "vertical_flip", "p": 1}, {"name": "cutout", "size": 4}


def one_of(*operations: dict[str, Any], **changes: Any) -> OneOf:
    return OneOf.model_validate({"name": "one_of", "operations": operations, **changes})


def test_each_image_gets_the_operation_that_was_chosen_for_it(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = one_of(LEFT_RIGHT, TOP_BOTTOM)
    drawn = settings.draw(make_batch(), generator(0))
    result, first = settings.apply(digit_images, drawn), drawn["choice"] == 0
    assert 0 < first.sum() < 64
    assert torch.equal(result[first], digit_images[first].flip(3))
    assert torch.equal(result[~first], digit_images[~first].flip(2))


def test_a_member_gets_the_parameters_it_drew_for_the_image(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = one_of(LEFT_RIGHT, CUT)
    drawn = settings.draw(make_batch(), generator(0))
    cut = settings.members()[1]
    alone = cut.apply(digit_images, {key[2:]: value for key, value in drawn.items() if key.startswith("1.")})
    second = drawn["choice"] == 1
    assert torch.equal(settings.apply(digit_images, drawn)[second], alone[second])


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, [1, 1, 1]), ([1, 2, 5], [1, 2, 5]), ([0.1, 0.1, 0.6], [1, 1, 6])]
)
def test_operations_are_chosen_as_often_as_their_weight_says(
    weights: list[float] | None, expected: list[int], make_batch: MakeBatch
) -> None:
    drawn = one_of(LEFT_RIGHT, TOP_BOTTOM, CUT, weights=weights).draw(make_batch(20_000), generator(0))
    counts = torch.bincount(drawn["choice"], minlength=3).double()
    shares = torch.tensor(expected).double() / sum(expected)
    assert chisquare(counts.numpy(), (shares * 20_000).numpy()).pvalue > 1e-4


def test_a_share_of_p_gets_any_operation(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = one_of(LEFT_RIGHT, TOP_BOTTOM, p=0.3)
    chosen = settings.draw(make_batch(20_000), generator(0))["chosen"].double()
    assert abs(chosen.mean() - 0.3) < 5 * (0.21 / 20_000) ** 0.5
    drawn = settings.draw(make_batch(), generator(0))
    kept = ~drawn["chosen"]
    result = settings.apply(digit_images, drawn)
    assert torch.equal(result[kept], digit_images[kept])
    both = flip(digit_images, drawn["chosen"] & (drawn["choice"] == 0))
    assert torch.equal(result[drawn["choice"] == 0], both[drawn["choice"] == 0])


def test_a_member_acts_with_its_own_probability(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = one_of({"name": "flip", "p": 0.5}, {"name": "vertical_flip", "p": 0.5})
    drawn = settings.draw(make_batch(20_000), generator(0))
    acts = torch.where(drawn["choice"] == 0, drawn["0.flip"], drawn["1.chosen"]).double()
    assert abs(acts.mean() - 0.5) < 5 * 0.5 / 20_000**0.5


def test_it_can_stand_in_itself(digit_images: Tensor, make_batch: MakeBatch) -> None:
    inner = {"name": "one_of", "operations": [LEFT_RIGHT, CUT]}
    settings = one_of(TOP_BOTTOM, inner)
    drawn = settings.draw(make_batch(), generator(0))
    assert {"choice", "1.choice", "1.1.y"} <= drawn.keys()
    result = settings.apply(digit_images, drawn)
    mirrored = (drawn["choice"] == 1) & (drawn["1.choice"] == 0)
    assert 0 < mirrored.sum() < 64
    assert torch.equal(result[mirrored], digit_images[mirrored].flip(3))


def test_two_members_of_one_kind_draw_on_their_own(make_batch: MakeBatch) -> None:
    drawn = one_of(CUT, CUT).draw(make_batch(), generator(0))
    assert not torch.equal(drawn["0.y"], drawn["1.y"])


def test_it_is_read_from_plain_values_with_its_members_checked() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(OperationSettings)
    plain = {"name": "one_of", "operations": [{"name": "one_of", "operations": [CUT, LEFT_RIGHT]}, TOP_BOTTOM]}
    settings = adapter.validate_python(plain)
    assert adapter.validate_python(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError, match="sise") as caught:
        adapter.validate_python({"name": "one_of", "operations": [{"name": "cutout", "sise": 3}, CUT]})
    assert caught.value.errors()[0]["loc"] == ("one_of", "operations", 0, "cutout", "sise")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": []}, "0 of them; allowed: at least 2"),
        ({"operations": [CUT]}, "1 of them; allowed: at least 2"),
        ({"operations": [CUT, LEFT_RIGHT], "weights": [1]}, "weights: 1 for 2 operations"),
        ({"operations": [CUT, LEFT_RIGHT], "weights": [1, 0]}, "greater than 0"),
        ({}, "operations"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OneOf.model_validate({"name": "one_of", **settings})
