"""A policy: order, parameters of its own for each place, and operations that do nothing are named."""

from collections.abc import Callable

import torch
from torch import Tensor

from groundup.augment import AugmentSettings, Batch, augment, draw, without_effect
from groundup.augment.cutout import Cutout
from groundup.augment.flip import Flip
from groundup.augment.pad_crop import PadCrop

MakeBatch = Callable[..., Batch]


def test_operations_are_applied_in_their_order(digit_images: Tensor, make_batch: MakeBatch) -> None:
    crop, cut = PadCrop(name="pad_crop", pad=4), Cutout(name="cutout", size=6, fill="mean")
    one, other = (augment(policy, digit_images, make_batch(), 0) for policy in ([crop, cut], [cut, crop]))
    assert not torch.equal(one, other)
    drawn = draw([crop, cut], make_batch(), 0)
    assert torch.equal(cut.apply(crop.apply(digit_images, drawn[0]), drawn[1]), one)


def test_the_same_operation_twice_draws_twice(make_batch: MakeBatch) -> None:
    flip = Flip(name="flip")
    first, second = draw([flip, flip], make_batch(), 0)
    assert not torch.equal(first["flip"], second["flip"])


def test_an_empty_policy_changes_nothing(digit_images: Tensor, make_batch: MakeBatch) -> None:
    assert torch.equal(augment([], digit_images, make_batch(), 0), digit_images)
    assert AugmentSettings().policy == ()


def test_what_cannot_be_seen_on_the_images_is_named(make_batch: MakeBatch) -> None:
    plain = torch.full((64, 3, 16, 16), 7, dtype=torch.uint8)
    policy = [Flip(name="flip"), PadCrop(name="pad_crop", mode="reflect"), PadCrop(name="pad_crop", mode="zero")]
    assert without_effect(policy, plain, make_batch()) == ["flip", "pad_crop"]
