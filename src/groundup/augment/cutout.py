"""Cutout: blank one square of each image.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `y`, `x` int64 (B,) in [0, S): the square's centre; `fill` uint8 (3,).
Source   T. DeVries, G. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (arXiv 1708.04552): the
         centre is anywhere in the image, so that the square may reach beyond the border.
Values   CIFAR-100: 8 px alone, 16 px under AutoAugment or TrivialAugment, 200 epochs.
Cost     one mask and one copy of the batch.
Hurts    in runs under about 10 epochs: removing it gained over a point at CIFAR-100.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation, fill_colour


class Cutout(UsualOperation):
    """Blank one square per image, centred anywhere in it."""

    name: Literal["cutout"] = Field(description="Blank one square.")
    size: int = Field(8, ge=1, description="Side of the square in px.")
    fill: Literal["mean", "black"] = Field("mean", description="Colour of the square: the mean of the data, or black.")

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        centre = torch.randint(0, batch.size, (2, len(batch)), generator=generator, device=batch.device)
        return {"y": centre[0], "x": centre[1], "fill": fill_colour(batch, self.fill)}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return cutout(images, parameters["y"], parameters["x"], parameters["fill"], size=self.size)


def cutout(images: Tensor, y: Tensor, x: Tensor, fill: Tensor, *, size: int) -> Tensor:
    """Blank the square of side `size` around (y, x), cut at the border, with the colour `fill` (B, C)."""
    rows = _within(torch.arange(images.shape[-2], device=images.device), y, size)
    columns = _within(torch.arange(images.shape[-1], device=images.device), x, size)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], fill[:, :, None, None], images)


def _within(positions: Tensor, centre: Tensor, size: int) -> Tensor:
    """bool (B, P): which positions lie in [centre - size // 2, centre - size // 2 + size)."""
    start = (centre - size // 2)[:, None]
    return (positions >= start) & (positions < start + size)
