"""MixUp: the blend of the formula, for each image its own, and nothing where lambda is 1."""

import torch
from torch import Tensor

from groundup.augment.mixing import MixUpSettings
from groundup.augment.mixing.mixup import mixup
from groundup.basis.seeding import generator


def test_it_is_the_blend_of_the_formula(digit_images: Tensor) -> None:
    images = digit_images.float() / 255
    partners, lam = images.roll(1, 0), torch.linspace(0, 1, 64)
    mixed = mixup(images, partners, lam)
    expected = torch.stack([w * x + (1 - w) * y for w, x, y in zip(lam, images, partners, strict=True)])
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-6)


def test_at_the_ends_it_is_one_of_the_two_bit_for_bit(digit_images: Tensor) -> None:
    images = digit_images.float() / 7 - 3.3
    partners = images.flip(0) * 1e3
    assert torch.equal(mixup(images, partners, torch.ones(64)), images)
    assert torch.equal(mixup(images, partners, torch.zeros(64)), partners)


def test_it_draws_lambda_from_its_alpha_and_pastes_nothing() -> None:
    drawn = MixUpSettings(name="mixup", alpha=0.4).draw(20_000, 32, generator(0))
    assert abs(drawn.lam.var().item() * 4 * 1.8 - 1) < 0.03  # 1 / (4 (2 alpha + 1))
    assert not drawn.box.any()
    assert drawn.box.shape == (20_000, 4)
