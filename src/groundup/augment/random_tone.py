"""Small operations on tones, each with a probability and at most one fixed setting.

Shapes   images uint8 (B, 3, S, S) -> the same; parameter `chosen` bool (B,): the images that are changed.
Source   names, settings and probabilities of torchvision's RandomGrayscale, RandomSolarize, RandomPosterize, RandomAutocontrast,
         RandomEqualize, RandomInvert and RandomAdjustSharpness; levels as Pillow gives them, chosen for every image by itself.
Values   grayscale p 0.2 and solarize p 0.2 at 128 in self-supervised recipes (SimCLR, arXiv 2002.05709; BYOL, 2006.07733).
Cost     equalize three gathers or scatters of the batch, the others one to a few passes.
Hurts    where colour or tone tells the classes apart; invert on photographs.
"""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from groundup.augment import colour
from groundup.augment.base import Batch, Parameters, RandomOperation

_PROBABILITY = "Probability that an image is changed, above 0."


class _Tone(RandomOperation):
    """An operation that draws nothing but the choice of images."""

    p: float = Field(0.5, gt=0, le=1, description=_PROBABILITY)

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {}


class RandomGrayscale(_Tone):
    """Grey instead of colour."""

    name: Literal["random_grayscale"] = Field(description="Grey instead of colour.")
    p: float = Field(0.1, gt=0, le=1, description=_PROBABILITY)

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.grayscale(images)


class RandomSolarize(_Tone):
    """Invert bright levels."""

    name: Literal["random_solarize"] = Field(description="Invert the levels at or above a threshold.")
    threshold: int = Field(128, ge=0, le=255, description="Lowest level that is inverted, 0 to 255.")

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.solarize(images, torch.full((len(images),), self.threshold, device=images.device))


class RandomPosterize(_Tone):
    """Fewer levels."""

    name: Literal["random_posterize"] = Field(description="Keep only the highest bits of every level.")
    bits: int = Field(4, ge=1, le=7, description="Bits kept per channel, 1 to 7 (8 would change nothing).")

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.posterize(images, torch.full((len(images),), self.bits, device=images.device))


class RandomAutocontrast(_Tone):
    """Stretch every channel to the full range."""

    name: Literal["random_autocontrast"] = Field(description="Stretch every channel to the full range of levels.")

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.autocontrast(images)


class RandomEqualize(_Tone):
    """Even out the histogram of every channel."""

    name: Literal["random_equalize"] = Field(description="Even out the histogram of every channel.")

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.equalize(images)


class RandomInvert(_Tone):
    """The negative."""

    name: Literal["random_invert"] = Field(description="Invert every level: the negative.")

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.invert(images)


class RandomAdjustSharpness(_Tone):
    """Sharpen or smooth."""

    name: Literal["random_adjust_sharpness"] = Field(description="Sharpen or smooth.")
    sharpness_factor: float = Field(
        2.0, ge=0, description="0 smooths, 1 would change nothing and is refused, 2 sharpens; at least 0."
    )

    @field_validator("sharpness_factor")
    @classmethod
    def _acts(cls, factor: float) -> float:
        if factor == 1:
            raise ValueError("a factor of 1 keeps the image as it is; go below 1 to smooth, above 1 to sharpen")
        return factor

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        factor = torch.full((len(images),), self.sharpness_factor, device=images.device)
        return colour.sharpness(images, factor)
