"""Coarse dropout: blank several rectangles, as many as is drawn for the image.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `top`, `left`, `height`, `width` int64 (B, K): K is the largest number of
         holes, those that the image does not have are 0 by 0; `fill` uint8 (3,).
Source   albumentations' `CoarseDropout`; T. DeVries, G. Taylor, "Improved Regularization of Convolutional Neural Networks with
         Cutout" (arXiv 1708.04552) for one hole. Here every hole has a height and a width of its own and lies inside of the image;
         holes may overlap.
Values   1 to 8 holes with sides up to a quarter of the image's; together they should leave most of it.
Cost     one mask of 64 bit and one copy of the batch, whatever the number of holes.
Hurts    in short runs, as Cutout does.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation, fill_colour
from groundup.augment.geometry import Positive, refuse_unordered
from groundup.augment.random_resized_crop import Boxes, boxes_of

_Holes = Annotated[int, Field(ge=1, le=62)]  # each is one bit of an int64


class CoarseDropout(RandomOperation):
    """Blank several rectangles."""

    name: Literal["coarse_dropout"] = Field(description="Blank several rectangles.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    holes: tuple[_Holes, _Holes] = Field((1, 8), description="Smallest and largest number of holes.")
    side: tuple[Positive, Positive] = Field((0.1, 0.25), description="Smallest and largest side of a hole, in `unit`.")
    unit: Literal["share", "px"] = Field(
        "share",
        description="What `side` is counted in: shares of the image's side in (0, 1], or px (whole, at least 1).",
    )
    fill: Literal["mean", "black"] = Field("mean", description="Colour of the holes: the mean of the data, or black.")

    @model_validator(mode="after")
    def _possible(self) -> "CoarseDropout":
        refuse_unordered(holes=self.holes, side=self.side)
        if self.unit == "share" and self.side[1] > 1:
            raise ValueError(f"side={list(self.side)}: shares of the side; allowed: at most 1; or set unit: px")
        if self.unit == "share" and self.side[0] == 1:
            raise ValueError(f"side={list(self.side)}: every hole would blank the whole image; lower the first")
        if self.unit == "px" and not all(side.is_integer() for side in self.side):
            raise ValueError(f"side={list(self.side)}: px; allowed: whole numbers from 1; or set unit: share")
        return self

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=batch.device)

        fewest, most = self.holes
        count = fewest + (rand(len(batch), 1) * (most - fewest + 1)).long()
        exists = torch.arange(most, device=batch.device) < count
        shortest, longest = (self._px(side, batch.size) for side in self.side)
        sides = (shortest + (rand(2, len(batch), most) * (longest - shortest + 1)).long()) * exists
        corners = (rand(2, len(batch), most) * (batch.size - sides + 1)).long()
        return {**Boxes(*corners, *sides)._asdict(), "fill": fill_colour(batch, self.fill)}

    def _px(self, side: float, size: int) -> int:
        """A side in px, from 1 to the image's own."""
        return min(max(round(side * size if self.unit == "share" else side), 1), size)

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return coarse_dropout(images, boxes_of(parameters), parameters["fill"])


def coarse_dropout(images: Tensor, holes: Boxes, fill: Tensor) -> Tensor:
    """Blank K rectangles per image, each field of `holes` int64 (B, K), at most 62, with the colour `fill` (B, C)."""
    rows = _covered(torch.arange(images.shape[-2], device=images.device), holes.top, holes.height)
    columns = _covered(torch.arange(images.shape[-1], device=images.device), holes.left, holes.width)
    # A pixel is blank if one and the same hole covers its row and its column.
    blank = (rows[:, :, None] & columns[:, None, :]) != 0
    return torch.where(blank[:, None], fill[:, :, None, None], images)


def _covered(positions: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """int64 (B, P): bit k says whether the position lies in [start, start + length) of hole k."""
    offsets = positions - start[:, :, None]  # (B, K, P)
    bits = torch.ones_like(start) << torch.arange(start.shape[1], device=start.device)
    return (((offsets >= 0) & (offsets < length[:, :, None])) * bits[:, :, None]).sum(1)
