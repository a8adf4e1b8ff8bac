"""Brightness and contrast: scale the levels of each image and add to them, at random.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `brightness`, `contrast` float (B,) in [-1, 1], 0 keeps the image.
Source   RandomBrightnessContrast of albumentations (A. Buslaev et al., "Albumentations: Fast and Flexible Image Augmentations",
         arXiv 1809.06839), version 1.4: level * (1 + contrast) + brightness * 255, or, with brightness_by_max false,
         (level + brightness * mean) * (1 + contrast), where the mean is over all pixels and channels of the image. Cut to
         [0, 255], the fraction cut off.
Note     contrast scales from black, so that it changes the brightness as well; `color_jitter` scales from the mean instead.
Values   limits 0.2, p 0.5.
Cost     one pass over the batch in float32.
Hurts    at large limits: levels pile up at black and white.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation
from groundup.augment.ranges import acceptable, around, uniform

_Share = Annotated[float, Field(ge=-1, le=1)]
_Limit = Annotated[_Share | tuple[_Share, _Share], AfterValidator(acceptable)]


class BrightnessContrast(RandomOperation):
    """Scale the levels and add to them at random."""

    name: Literal["brightness_contrast"] = Field(description="Scale the levels and add to them at random.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    brightness_limit: _Limit = Field(
        0.2,
        description="Limit x in [0, 1]: a share in [-x, x] of white (or the mean) is added; or the range [low, high].",
    )
    contrast_limit: _Limit = Field(
        0.2,
        description="Limit x in [0, 1]: levels are scaled by 1 + c with c in [-x, x]; or the range [low, high] of c.",
    )
    brightness_by_max: bool = Field(
        True, description="Add a share of white (255); false adds a share of the image's own mean."
    )

    @model_validator(mode="after")
    def _acts(self) -> "BrightnessContrast":
        if around(self.brightness_limit, 0.0) == around(self.contrast_limit, 0.0) == (0.0, 0.0):
            raise ValueError(
                "brightness_limit and contrast_limit are both 0; set one above 0 or remove brightness_contrast"
            )
        return self

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {
            "brightness": uniform(around(self.brightness_limit, 0.0), batch, generator),
            "contrast": uniform(around(self.contrast_limit, 0.0), batch, generator),
        }

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return brightness_contrast(
            images, parameters["brightness"], parameters["contrast"], by_max=self.brightness_by_max
        )


def brightness_contrast(images: Tensor, brightness: Tensor, contrast: Tensor, *, by_max: bool = True) -> Tensor:
    """See the module; `by_max` is the setting brightness_by_max."""
    scale = 1 + contrast
    levels = images.float()
    added = brightness * 255 if by_max else scale * brightness * levels.mean((1, 2, 3))
    levels.mul_(scale[:, None, None, None]).add_(added[:, None, None, None])
    return levels.clamp_(0, 255).to(torch.uint8)
