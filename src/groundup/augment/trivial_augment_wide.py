"""TrivialAugment Wide: one operation per image, drawn with its magnitude from a wide range, and nothing to tune.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `operation` int64 (B, 1) and `magnitude` float32 (B, 1), see `space`.
Source   S. Mueller, F. Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (arXiv 2103.10158): 14
         operations equally likely, 31 magnitudes equally likely, fair signs; the ranges of torchvision's TrivialAugmentWide.
Values   CIFAR-100, WRN-28-10, 200 epochs: 84.3 (AutoAugment 82.9), before crop, flip and cutout 16.
Cost     about 15 us of one CPU core per image of 32 x 32.
Hurts    in short runs, and where colour or direction is what tells the classes apart. Translations are
         up to 32 px whatever the size of the images: at 32 px the strongest leave nothing.
"""

from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation
from groundup.augment.geometry import Interpolation
from groundup.augment.space import draw_operations, perform, space

WIDE = space(shear=0.99, shift=32.0, angle=135.0, colour=0.99, bits=(8, 2))
_NAMES = tuple(scale.name for scale in WIDE)


class TrivialAugmentWide(UsualOperation):
    """One operation per image, at any magnitude of a wide range."""

    name: Literal["trivial_augment_wide"] = Field(description="One operation per image, at any magnitude.")
    num_magnitude_bins: int = Field(31, ge=2, description="Number of magnitudes from weakest to strongest.")
    interpolation: Interpolation = Field("nearest", description="How shears and rotations read between pixels.")

    def draw_parameters(self, batch: Batch, generator: Generator) -> Parameters:
        bins = self.num_magnitude_bins
        return draw_operations(WIDE, (len(batch), 1), generator, bins=bins, weakest=0, strongest=bins - 1)

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        operation, magnitude = parameters["operation"][:, 0], parameters["magnitude"][:, 0]
        return perform(images, operation, magnitude, among=_NAMES, interpolation=self.interpolation)
