"""Batched augmentation on the device, with parameters of its own for every image and explicit randomness.

Adding an operation: one file with its settings class (`draw`, `apply`) and its pure batched function, one line in `OPERATIONS`,
one test file. The generic tests take it from the dictionary.
"""

from typing import Annotated

from pydantic import Field

from groundup.augment.base import Batch, Operation, Parameters
from groundup.augment.cutout import Cutout
from groundup.augment.flip import Flip
from groundup.augment.normalize import Colour, NormalizeSettings, measure, normalize
from groundup.augment.pad_crop import PadCrop
from groundup.augment.policy import apply, augment, draw, without_effect
from groundup.basis.settings import Settings

OPERATIONS: dict[str, type[Settings]] = {"cutout": Cutout, "flip": Flip, "pad_crop": PadCrop}
OperationSettings = Annotated[Cutout | Flip | PadCrop, Field(discriminator="name")]


class AugmentSettings(Settings):
    """What happens to a training batch between the data and the network."""

    policy: tuple[OperationSettings, ...] = Field(
        (), description="Operations, applied in order to training batches only."
    )
    normalize: NormalizeSettings = Field(
        default_factory=NormalizeSettings, description="Constants for training and evaluation alike."
    )


__all__ = [
    "OPERATIONS",
    "AugmentSettings",
    "Batch",
    "Colour",
    "NormalizeSettings",
    "Operation",
    "OperationSettings",
    "Parameters",
    "apply",
    "augment",
    "draw",
    "measure",
    "normalize",
    "without_effect",
]
