"""Gaussian noise: normal, of the drawn strength, a function of the image's seed alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.gaussian_noise import GaussianNoise, gaussian_noise, normal
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]
COUNT = 64 * 3 * 32 * 32


def seeds(count: int = 64) -> Tensor:
    return torch.randint(0, 1 << 62, (count,), generator=generator("seeds"))


def test_the_numbers_are_standard_normal() -> None:
    numbers = normal(seeds(), 3, 32, 32).double()
    assert kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-4
    assert 4 < numbers.abs().max() < 6


def test_neighbours_channels_and_images_are_independent() -> None:
    numbers = normal(seeds(), 3, 32, 32).double()
    pairs = [(numbers[..., 1:], numbers[..., :-1]), (numbers[..., 1:, :], numbers[..., :-1, :])]
    pairs += [(numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])]
    consecutive = normal(torch.arange(64), 3, 32, 32).double()  # seeds that differ in few bits
    pairs.append((consecutive[1:], consecutive[:-1]))
    for one, other in pairs:
        assert abs((one * other).mean()) < 5 / one.numel() ** 0.5


def test_the_noise_of_an_image_follows_from_its_seed_wherever_it_stands() -> None:
    order = torch.randperm(64, generator=generator(1))
    assert torch.equal(normal(seeds()[order], 3, 8, 8), normal(seeds(), 3, 8, 8)[order])


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1])
def test_a_grey_image_gets_noise_of_the_strength_asked_for(std: float) -> None:
    grey = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    noise = gaussian_noise(grey, torch.full((64,), std), seeds()).double() - 128
    assert abs(noise.mean()) < 5 * 255 * std / COUNT**0.5
    rounded = ((255 * std) ** 2 + 1 / 12) ** 0.5  # to whole bytes
    assert abs(noise.std() / rounded - 1) < 5 / (2 * COUNT) ** 0.5 + 1e-3


def test_each_image_has_a_strength_of_its_own() -> None:
    grey = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    std = torch.linspace(0, 0.1, 64)
    noise = gaussian_noise(grey, std, seeds()).double() - 128
    torch.testing.assert_close(noise.std((1, 2, 3)).float(), 255 * std, atol=0.4, rtol=0.1)
    assert (noise[0] == 0).all()


def test_values_end_at_black_and_white() -> None:
    for value in (0, 255):
        plain = torch.full((64, 3, 16, 16), value, dtype=torch.uint8)
        result = gaussian_noise(plain, torch.full((64,), 0.05), seeds())
        # Half of the noise would lead outside: it is cut, not wrapped around.
        assert 0.45 < (result == value).double().mean() < 0.55
        assert (result.int() - value).abs().max() < 90


def test_strengths_are_spread_evenly_and_seeds_differ(make_batch: MakeBatch) -> None:
    settings = GaussianNoise(name="gaussian_noise", std=(0.1, 0.3), p=0.4)
    drawn = settings.draw(make_batch(20_000), generator(0))
    assert kstest(drawn["std"].numpy(), "uniform", args=(0.1, 0.2)).pvalue > 1e-4
    assert len(drawn["seed"].unique()) == 20_000
    assert abs(drawn["chosen"].double().mean() - 0.4) < 5 * (0.24 / 20_000) ** 0.5


def test_only_the_chosen_images_are_changed(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = GaussianNoise(name="gaussian_noise")
    drawn = settings.draw(make_batch(), generator(0))
    changed = (settings.apply(digit_images, drawn) != digit_images).flatten(1).any(1)
    assert torch.equal(changed, drawn["chosen"])
    assert 0 < changed.sum() < 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": [0, 0]}, "changes nothing; raise the second"),
        ({"std": [-0.1, 0.1]}, "greater than or equal to 0"),
        ({"std": [5, 25]}, "less than or equal to 1"),
        ({"std": [0.2, 0.1]}, r"write \[0.1, 0.2\]"),
    ],
)
def test_settings_that_cannot_act_or_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GaussianNoise.model_validate({"name": "gaussian_noise", **settings})
