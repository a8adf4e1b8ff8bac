"""Flip: mirrors the chosen images; alternating shows both views of every image in two consecutive epochs."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.augment import Batch, draw
from groundup.augment.flip import Flip, flip
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def test_the_chosen_images_are_mirrored_and_the_others_kept(digit_images: Tensor) -> None:
    chosen = torch.arange(64) % 3 == 0
    result = flip(digit_images, chosen)
    assert torch.equal(result[chosen], digit_images[chosen].flip(3))
    assert torch.equal(result[~chosen], digit_images[~chosen])


@pytest.mark.parametrize("p", [0.5, 0.1, 0.9])
def test_a_share_of_p_is_flipped_anew_in_every_step(p: float, make_batch: MakeBatch) -> None:
    policy, batch = [Flip(name="flip", p=p)], make_batch(20_000)
    first, second = (draw(policy, batch, step)[0]["flip"].double() for step in (0, 1))
    five_sigma = 5 * (p * (1 - p) / 20_000) ** 0.5
    assert abs(first.mean() - p) < five_sigma
    both = (first * second).mean()
    assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / 20_000) ** 0.5, "steps are independent"


def test_p_1_flips_everything(make_batch: MakeBatch) -> None:
    assert Flip(name="flip", p=1).draw(make_batch(), generator(0))["flip"].all()


@pytest.mark.parametrize("epoch", [0, 1, 6])
def test_alternating_shows_each_image_both_ways_in_two_consecutive_epochs(epoch: int, make_batch: MakeBatch) -> None:
    policy = [Flip(name="flip", alternate=True)]
    now, then, again = (
        draw(policy, make_batch(epoch=epoch + ahead), step)[0]["flip"] for ahead, step in ((0, 5), (1, 17), (2, 40))
    )
    assert torch.equal(now, ~then)
    assert torch.equal(now, again)


def test_alternating_begins_at_random_with_about_half_flipped(make_batch: MakeBatch) -> None:
    policy = [Flip(name="flip", alternate=True)]
    first, other_seed = (draw(policy, make_batch(20_000, seed=seed), 0)[0]["flip"] for seed in (0, 1))
    assert abs(first.double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5
    assert abs((first == other_seed).double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5


def test_alternating_follows_the_image_wherever_it_stands_in_the_batch(make_batch: MakeBatch) -> None:
    policy, batch = [Flip(name="flip", alternate=True)], make_batch(100)
    order = torch.randperm(100, generator=generator(1))
    shuffled = Batch(order, 0, 0, 16, batch.mean, batch.device)
    assert torch.equal(draw(policy, shuffled, 3)[0]["flip"], draw(policy, batch, 0)[0]["flip"][order])


def test_a_probability_beside_alternate_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"p=0\.7 cannot act; remove p or alternate"):
        Flip(name="flip", alternate=True, p=0.7)


@pytest.mark.parametrize("p", [0, -0.1, 1.1])
def test_a_probability_outside_0_and_1_is_refused(p: float) -> None:
    with pytest.raises(ValidationError):
        Flip(name="flip", p=p)
