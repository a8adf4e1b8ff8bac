"""Noise: Gaussian, shot (Poisson) and impulse (salt and pepper).

Shapes   images uint8 (B, 3, S, S), the parameter of one severity, seeds int64 (B,) -> uint8 (B, 3, S, S).
Source   Hendrycks and Dietterich (arXiv 1903.12261) and the scripts make_cifar_c.py and make_imagenet_c.py they published.
         The noise is independent in every channel of every pixel, as there.
"""

import functools

import torch
from torch import Tensor

from groundup.augment.gaussian_noise import normal
from groundup.evaluation.corruptions.base import Corruption, cut, uniform


def gaussian_noise(images: Tensor, std: float, seeds: Tensor) -> Tensor:
    """Add normal numbers of standard deviation `std`, a share of full scale."""
    return cut(normal(seeds, *images.shape[1:]).mul_(255 * std).add_(images))


def shot_noise(images: Tensor, photons: float, seeds: Tensor) -> Tensor:
    """Count photons: of a value x in [0, 1] remains k / `photons`, with k from a Poisson law of mean x * `photons`."""
    # The smallest k whose cumulative probability is above a uniform number. One search serves all 256 laws, since that of
    # level v is moved up by v: the table then rises from its first entry to its last.
    table = _poisson(photons)
    wanted = images + uniform(seeds, *images.shape[1:]).double()
    found = torch.searchsorted(table.flatten().to(images.device), wanted, right=True) - images.long() * table.shape[1]
    return found.mul_(255).div_(photons, rounding_mode="floor").clamp_(max=255).to(torch.uint8)


@functools.cache
def _poisson(photons: float) -> Tensor:
    """For each level v the chance of at most 0, 1, ... photons, plus v: float64 (256, counts)."""
    levels = torch.arange(256, dtype=torch.float64)[:, None]
    counts = torch.arange(int(photons + 10 * photons**0.5 + 20), dtype=torch.float64)
    return torch.special.gammaincc(counts + 1, levels * (photons / 255)) + levels


def impulse_noise(images: Tensor, amount: float, seeds: Tensor) -> Tensor:
    """Set a share `amount` of the values to 0 or to 255, as often one as the other."""
    drawn = uniform(seeds, *images.shape[1:])
    return images.masked_fill(drawn < amount, 255).masked_fill_(drawn < amount / 2, 0)


GAUSSIAN_NOISE = Corruption(gaussian_noise, small=(0.04, 0.06, 0.08, 0.09, 0.10), large=(0.08, 0.12, 0.18, 0.26, 0.38))
SHOT_NOISE = Corruption(shot_noise, small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
IMPULSE_NOISE = Corruption(impulse_noise, small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27))
