"""Hue, saturation and value: shift each of the three for a whole image at random.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters float (B,), in the units of OpenCV's 8-bit HSV: `hue` in steps of 2
         degrees (180 is the circle), `saturation` and `value` in levels of 255; 0 keeps the image.
Source   HueSaturationValue of albumentations (A. Buslaev et al., "Albumentations: Fast and Flexible Image Augmentations",
         arXiv 1809.06839). Changed: HSV is kept in float32 and shifts may be fractions, where OpenCV rounds each of the three.
Values   limits 20 (40 degrees), 30, 20, p 0.5.
Cost     about thirty passes over a plane of the batch in float32.
Hurts    where colour tells the classes apart. Grey has hue 0, which is red: a higher saturation tints white and grey.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation
from groundup.augment.colour import from_hue_chroma_value, hue_chroma_value
from groundup.augment.ranges import Span, acceptable, around, uniform

_Hue = Annotated[float, Field(ge=-90, le=90)]
_HueLimit = Annotated[_Hue | tuple[_Hue, _Hue], AfterValidator(acceptable)]
_Level = Annotated[float, Field(ge=-255, le=255)]
_LevelLimit = Annotated[_Level | tuple[_Level, _Level], AfterValidator(acceptable)]


class HueSaturationValue(RandomOperation):
    """Shift hue, saturation and value at random."""

    name: Literal["hue_saturation_value"] = Field(description="Shift hue, saturation and value at random.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    hue_shift_limit: _HueLimit = Field(
        20.0, description="Limit x in [0, 90], steps of 2 degrees: the shift lies in [-x, x]; or the range [low, high]."
    )
    sat_shift_limit: _LevelLimit = Field(
        30.0, description="Limit x in [0, 255], levels: the shift lies in [-x, x]; or the range [low, high]."
    )
    val_shift_limit: _LevelLimit = Field(
        20.0, description="Limit x in [0, 255], levels: the shift lies in [-x, x]; or the range [low, high]."
    )

    @model_validator(mode="after")
    def _acts(self) -> "HueSaturationValue":
        if all(span == (0.0, 0.0) for span in self.spans().values()):
            raise ValueError(
                "hue_shift_limit, sat_shift_limit and val_shift_limit are all 0; set one above 0 or remove hue_saturation_value"
            )
        return self

    def spans(self) -> dict[str, Span]:
        """The range of each parameter."""
        limits = {"hue": self.hue_shift_limit, "saturation": self.sat_shift_limit, "value": self.val_shift_limit}
        return {key: around(limit, 0.0) for key, limit in limits.items()}

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {key: uniform(span, batch, generator) for key, span in self.spans().items()}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return shift_hsv(images, parameters["hue"], parameters["saturation"], parameters["value"])


def shift_hsv(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Add to the hue round the circle, and to saturation and value within [0, 255]. Units: see the module."""
    old_hue, chroma, old_value = hue_chroma_value(images)
    new_hue = old_hue + hue[:, None, None] / 30  # sixths of the circle
    new_saturation = (255 * chroma / old_value.clamp(min=1) + saturation[:, None, None]).clamp_(0, 255)
    new_value = (old_value + value[:, None, None]).clamp_(0, 255)
    return from_hue_chroma_value(new_hue, new_saturation * new_value / 255, new_value)
