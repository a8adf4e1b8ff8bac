"""RandAugment: `num_ops` operations per image, one after the other, all at the same magnitude.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `operation` int64 and `magnitude` float32 (B, num_ops), see `space`.
Source   E. Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space" (arXiv 1909.13719);
         operations and ranges of torchvision's RandAugment: 14 operations, drawn with replacement, fair signs.
Values   num_ops 2, magnitude 9 for ImageNet; larger networks and longer runs take more. CIFAR-100, WRN-28-10: 83.3.
Cost     `num_ops` times that of TrivialAugment.
Hurts    in short runs, and where colour or direction is what tells the classes apart. Identity, AutoContrast and Equalize have no
         magnitude: magnitude 0 still changes images.
"""

from typing import Literal

from pydantic import Field, model_validator
from torch import Generator, Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation
from groundup.augment.geometry import Interpolation
from groundup.augment.space import Space, draw_operations, perform, space


def moderate(size: int) -> Space:
    """The space of RandAugment for images of side `size` px; translations are a share of the side."""
    return space(shear=0.3, shift=150.0 / 331.0 * size, angle=30.0, colour=0.9, bits=(8, 4))


_NAMES = tuple(scale.name for scale in moderate(0))


class RandAugment(UsualOperation):
    """`num_ops` operations per image, all at one magnitude."""

    name: Literal["rand_augment"] = Field(description="Some operations per image at one magnitude.")
    num_ops: int = Field(2, ge=1, description="Operations per image, applied in turn.")
    magnitude: int = Field(9, ge=0, description="Bin of the magnitude, 0 (weakest) to num_magnitude_bins - 1.")
    num_magnitude_bins: int = Field(31, ge=2, description="Number of magnitudes from weakest to strongest.")
    interpolation: Interpolation = Field("nearest", description="How shears and rotations read between pixels.")

    @model_validator(mode="after")
    def _in_range(self) -> "RandAugment":
        if self.magnitude >= self.num_magnitude_bins:
            raise ValueError(
                f"magnitude={self.magnitude} is not one of the {self.num_magnitude_bins} bins; "
                f"allowed: 0 to {self.num_magnitude_bins - 1}"
            )
        return self

    def draw_parameters(self, batch: Batch, generator: Generator) -> Parameters:
        shape, only = (len(batch), self.num_ops), self.magnitude
        bins = self.num_magnitude_bins
        return draw_operations(moderate(batch.size), shape, generator, bins=bins, weakest=only, strongest=only)

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        for operation, magnitude in zip(parameters["operation"].T, parameters["magnitude"].T, strict=True):
            images = perform(images, operation, magnitude, among=_NAMES, interpolation=self.interpolation)
        return images
