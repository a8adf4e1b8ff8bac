"""Random erasing: blank one rectangle of random area and shape, inside of the image.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `top`, `left`, `height`, `width` int64 (B,): the rectangle in px, 0 by
         0 where ten tries found none that fits; `fill` uint8 (3,), or `seed` int64 (B,) of the noise.
Source   Z. Zhong et al., "Random Erasing Data Augmentation" (arXiv 1708.04896); the algorithm is torchvision's `RandomErasing`.
Differs  `noise` is uniform over the bytes, as in the paper; torchvision's `random` is normal and meant for normalised images.
Values   p 0.5, scale 0.02 to 0.33 (paper, torchvision); p 0.25 in long ImageNet runs (timm).
Cost     one mask and one copy of the batch; `noise` as gaussian_noise.
Hurts    in short runs, as Cutout does.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation, fill_colour
from groundup.augment.gaussian_noise import random_bits, random_seeds
from groundup.augment.geometry import Positive, PositiveShare, refuse_unordered
from groundup.augment.random_resized_crop import Boxes, boxes_of, random_boxes


class RandomErasing(RandomOperation):
    """Blank one rectangle of random area and shape."""

    name: Literal["random_erasing"] = Field(description="Blank one rectangle.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    scale: tuple[PositiveShare, PositiveShare] = Field(
        (0.02, 0.33), description="Smallest and largest area of the rectangle, shares of the image."
    )
    ratio: tuple[Positive, Positive] = Field(
        (0.3, 3.3), description="Smallest and largest height over width of the rectangle; log-uniform."
    )
    value: Literal["zero", "mean", "noise"] = Field(
        "zero", description="What the rectangle shows: black, the mean of the data, or random values."
    )

    @model_validator(mode="after")
    def _acts(self) -> "RandomErasing":
        refuse_unordered(scale=self.scale, ratio=self.ratio)
        # A rectangle stays smaller than the image along both sides.
        if self.scale[0] == 1:
            raise ValueError("scale=[1, 1]: no rectangle of the image's own area is smaller than it; lower the first")
        return self

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        low, high = self.ratio
        boxes = random_boxes(
            len(batch), batch.size, batch.size, self.scale, (1 / high, 1 / low), generator, batch.device, smaller=True
        )
        drawn = boxes._asdict()
        if self.value == "noise":
            return {**drawn, "seed": random_seeds(batch, generator)}
        return {**drawn, "fill": fill_colour(batch, "mean" if self.value == "mean" else "black")}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        if self.value == "noise":
            values = (random_bits(parameters["seed"], *images.shape[1:]) & 255).byte()
        else:
            values = parameters["fill"][:, :, None, None]
        return torch.where(inside_boxes(boxes_of(parameters), images)[:, None], values, images)


def inside_boxes(boxes: Boxes, images: Tensor) -> Tensor:
    """bool (B, H, W): which pixels of the images (B, C, H, W) lie in the image's box."""
    rows = torch.arange(images.shape[-2], device=images.device) - boxes.top[:, None]
    columns = torch.arange(images.shape[-1], device=images.device) - boxes.left[:, None]
    rows_in = (rows >= 0) & (rows < boxes.height[:, None])
    columns_in = (columns >= 0) & (columns < boxes.width[:, None])
    return rows_in[:, :, None] & columns_in[:, None, :]
