"""Colour jitter: brightness, contrast, saturation and hue of each image changed at random, in random order.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `brightness`, `contrast`, `saturation` float (B,), factors around 1;
         `hue` float (B,), a turn in [-0.5, 0.5] circles; `order` int64 (B, 4), the four changes in the order they are made.
Source   A. Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification" (arXiv 1312.5402); ranges
         and order as in torchvision's ColorJitter, but drawn for every image of the batch; factors as in Pillow.
Values   ImageNet: 0.4, 0.4, 0.4, hue 0 or 0.1. SimCLR (arXiv 2002.05709): 0.8, 0.8, 0.8, hue 0.2, p 0.8.
Cost     on a CPU each change once per image; on a GPU each change four times, since to sort the images by order is to wait.
Hurts    where colour tells the classes apart (flowers, birds), and in short runs.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from groundup.augment import colour
from groundup.augment.base import Batch, Parameters, RandomOperation, on_chosen
from groundup.augment.ranges import Span, acceptable, around, uniform

_CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.adjust_hue,
}
_Factor = Annotated[float, Field(ge=0)]
_Factors = Annotated[_Factor | tuple[_Factor, _Factor], AfterValidator(acceptable)]
_Turn = Annotated[float, Field(ge=-0.5, le=0.5)]
_Turns = Annotated[_Turn | tuple[_Turn, _Turn], AfterValidator(acceptable)]


class ColorJitter(RandomOperation):
    """Change brightness, contrast, saturation and hue at random, in random order."""

    name: Literal["color_jitter"] = Field(description="Change brightness, contrast, saturation and hue at random.")
    brightness: _Factors = Field(
        0.4, description="Strength x: a factor in [max(0, 1 - x), 1 + x]; or the range [low, high] of the factor."
    )
    contrast: _Factors = Field(0.4, description="As brightness, for the distance from the image's mean grey.")
    saturation: _Factors = Field(0.4, description="As brightness, for the distance from the grey image.")
    hue: _Turns = Field(
        0.0, description="Strength x in [0, 0.5]: a turn of the hue in [-x, x] circles; or the range [low, high]."
    )

    @model_validator(mode="after")
    def _acts(self) -> "ColorJitter":
        if not self.spans():
            raise ValueError(
                "brightness, contrast, saturation and hue all leave the image as it is; set one above 0 or remove color_jitter"
            )
        return self

    def spans(self) -> dict[str, Span]:
        """The range of each parameter that can change an image."""
        spans = {key: around(getattr(self, key), 1.0, lowest=0.0) for key in ("brightness", "contrast", "saturation")}
        spans = {key: span for key, span in spans.items() if span != (1.0, 1.0)}
        turn = around(self.hue, 0.0)
        return spans if turn == (0.0, 0.0) else {**spans, "hue": turn}

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        order = torch.rand(len(batch), len(_CHANGES), generator=generator, device=batch.device).argsort(1)
        return {"order": order, **{key: uniform(span, batch, generator) for key, span in self.spans().items()}}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return color_jitter(images, parameters["order"], {key: parameters[key] for key in self.spans()})


def color_jitter(images: Tensor, order: Tensor, amounts: Mapping[str, Tensor]) -> Tensor:
    """Make the changes named in `amounts` (brightness, contrast, saturation, hue), each image in its own `order`, a permutation of
    0 to 3 that stand for these four."""
    for place in order.unbind(1):
        for number, (key, change) in enumerate(_CHANGES.items()):
            if key in amounts:
                images = on_chosen(images, place == number, {"amount": amounts[key]}, partial(_changed, change))
    return images


def _changed(change: Callable[[Tensor, Tensor], Tensor], images: Tensor, parameters: Parameters) -> Tensor:
    return change(images, parameters["amount"])
