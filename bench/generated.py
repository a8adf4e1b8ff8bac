"""Data made on the spot, for measurements that depend on the number and size of pictures and not on what they show."""

import numpy as np
import torch
from torch import Tensor

from groundup.basis.seeding import generator
from groundup.data import ImageSet, Splits


def noise(images: int, classes: int, side: int = 32) -> Splits:
    """Noise with labels in turn, as a data set of `images` for training and 100 for test."""
    random = np.random.default_rng(0)

    def part(count: int) -> ImageSet:
        pixels = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return ImageSet.whole(pixels, np.arange(count) % classes)

    names = [f"class {index}" for index in range(classes)]
    return Splits(part(images), None, part(100), names, side, f"generated-{images}-{classes}-{side}")


def pictures(count: int, size: int) -> Tensor:
    """uint8 (count, 3, size, size): slow waves of colour, each image with its own, and noise."""
    random = generator("pictures")
    place = torch.linspace(0, 6, size)
    waves = torch.rand(count, 3, 2, 1, generator=random) * (place + 1)
    levels = (waves[:, :, 0, :, None].sin() + waves[:, :, 1, None].cos()) * 60 + 120
    return (levels + torch.randn(levels.shape, generator=random) * 12).clamp(0, 255).to(torch.uint8)
