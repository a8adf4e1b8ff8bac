"""Gaussian noise: add to every value a normal number, with a strength of the image's own.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `std` float (B,), a share of full scale (1.0 is 255), and `seed`
         int64 (B,).
Source   torchvision's `GaussianNoise` (one strength, 0.1) and albumentations' `GaussNoise` (a range, as here).
Differs  The noise is a hash of the image's seed and the value's place, not a stream: a slice of the batch gets the noise that
         it gets in the whole, on any device, and what is drawn for the global batch stays small.
Values   std up to 0.1; 0.2 and more only to train against noise.
Cost     some ten passes over half of the batch's values in 64 bit: on a CPU one of the more expensive operations here.
Hurts    accuracy on clean images, when it is strong.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation
from groundup.augment.geometry import Share, refuse_unordered
from groundup.augment.ranges import uniform
from groundup.basis.seeding import scrambled


class GaussianNoise(RandomOperation):
    """Add a normal number to every value."""

    name: Literal["gaussian_noise"] = Field(description="Add a normal number to every value.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    std: tuple[Share, Share] = Field(
        (0.02, 0.1), description="Smallest and largest standard deviation, shares of full scale."
    )

    @model_validator(mode="after")
    def _acts(self) -> "GaussianNoise":
        refuse_unordered(std=self.std)
        if self.std == (0, 0):
            raise ValueError("std=[0, 0] changes nothing; raise the second")
        return self

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {"std": uniform(self.std, batch, generator), "seed": random_seeds(batch, generator)}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return gaussian_noise(images, parameters["std"], parameters["seed"])


def random_seeds(batch: Batch, generator: torch.Generator) -> Tensor:
    """A seed for every image: int64 (B,), at least 0."""
    return torch.randint(0, (1 << 63) - 1, (len(batch),), generator=generator, device=batch.device)


def random_bits(seeds: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Hashes int32 (B, channels, height, width), 32 random bits each, of the image's seed and the value's place."""
    count = channels * height * width
    pairs = torch.arange((count + 1) // 2, device=seeds.device) * -7046029254386353131
    halves = scrambled(pairs + seeds[:, None]).view(torch.int32)  # every hash of 64 bits is two of 32
    return halves[:, :count].reshape(-1, channels, height, width)


def gaussian_noise(images: Tensor, std: Tensor, seeds: Tensor) -> Tensor:
    """`images` plus normal numbers of standard deviation 255 * `std` (B,), rounded and cut at 0 and 255."""
    return (images + normal(seeds, *images.shape[1:]) * (255 * std)[:, None, None, None]).round().clamp(0, 255).byte()


def normal(seeds: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Standard normal numbers, float32 (B, channels, height, width), a function of `seeds` int64 (B,) alone."""
    # 24 bits to the middle of one of 2**24 cells of (-1, 1): exact in float32, and never -1 or 1.
    cells = (random_bits(seeds, channels, height, width) >> 8) * 2 + 1
    return torch.erfinv(cells.float() / (1 << 24)) * math.sqrt(2)
