"""Batched augmentation on the device, with parameters of its own for every image and explicit randomness.

Adding an operation: one file with its settings class (`draw`, `apply`) and its pure batched function, one line in `OPERATIONS`,
one test file. The generic tests take it from the dictionary.
"""

from typing import Annotated

from pydantic import Field

from groundup.augment.augmix import AugMix
from groundup.augment.auto_augment import AutoAugment
from groundup.augment.base import Batch, Operation, Parameters
from groundup.augment.brightness_contrast import BrightnessContrast
from groundup.augment.coarse_dropout import CoarseDropout
from groundup.augment.color_jitter import ColorJitter
from groundup.augment.cutout import Cutout
from groundup.augment.flip import Flip
from groundup.augment.gaussian_blur import GaussianBlur
from groundup.augment.gaussian_noise import GaussianNoise
from groundup.augment.geometry import RandomAffine, RandomRotation, ShiftScaleRotate, VerticalFlip
from groundup.augment.hue_saturation_value import HueSaturationValue
from groundup.augment.mixing import (
    MIX_GROUP,
    MIXERS,
    Mixed,
    MixMethodSettings,
    MixSettings,
    apply_mix,
    draw_mix,
    mix_groups,
    mixed_labels,
)
from groundup.augment.normalize import Colour, NormalizeSettings, measure, normalize
from groundup.augment.one_of import OneOf
from groundup.augment.pad_crop import PadCrop
from groundup.augment.policy import apply, augment, draw, without_effect
from groundup.augment.rand_augment import RandAugment
from groundup.augment.random_erasing import RandomErasing
from groundup.augment.random_resized_crop import RandomResizedCrop
from groundup.augment.random_tone import (
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomGrayscale,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from groundup.augment.trivial_augment_wide import TrivialAugmentWide
from groundup.basis.settings import Settings

OPERATIONS: dict[str, type[Settings]] = {
    "augmix": AugMix,
    "auto_augment": AutoAugment,
    "brightness_contrast": BrightnessContrast,
    "coarse_dropout": CoarseDropout,
    "color_jitter": ColorJitter,
    "cutout": Cutout,
    "flip": Flip,
    "gaussian_blur": GaussianBlur,
    "gaussian_noise": GaussianNoise,
    "hue_saturation_value": HueSaturationValue,
    "one_of": OneOf,
    "pad_crop": PadCrop,
    "rand_augment": RandAugment,
    "random_adjust_sharpness": RandomAdjustSharpness,
    "random_affine": RandomAffine,
    "random_autocontrast": RandomAutocontrast,
    "random_equalize": RandomEqualize,
    "random_erasing": RandomErasing,
    "random_grayscale": RandomGrayscale,
    "random_invert": RandomInvert,
    "random_posterize": RandomPosterize,
    "random_resized_crop": RandomResizedCrop,
    "random_rotation": RandomRotation,
    "random_solarize": RandomSolarize,
    "shift_scale_rotate": ShiftScaleRotate,
    "trivial_augment_wide": TrivialAugmentWide,
    "vertical_flip": VerticalFlip,
}
OperationSettings = Annotated[
    AugMix
    | AutoAugment
    | BrightnessContrast
    | CoarseDropout
    | ColorJitter
    | Cutout
    | Flip
    | GaussianBlur
    | GaussianNoise
    | HueSaturationValue
    | OneOf
    | PadCrop
    | RandAugment
    | RandomAdjustSharpness
    | RandomAffine
    | RandomAutocontrast
    | RandomEqualize
    | RandomErasing
    | RandomGrayscale
    | RandomInvert
    | RandomPosterize
    | RandomResizedCrop
    | RandomRotation
    | RandomSolarize
    | ShiftScaleRotate
    | TrivialAugmentWide
    | VerticalFlip,
    Field(discriminator="name"),
]
OneOf.model_rebuild(_types_namespace={"OperationSettings": OperationSettings})  # a member that holds members


class AugmentSettings(Settings):
    """What happens to a training batch between the data and the network."""

    policy: tuple[OperationSettings, ...] = Field(
        (), description="Operations, applied in order to training batches only."
    )
    normalize: NormalizeSettings = Field(
        default_factory=NormalizeSettings, description="Constants for training and evaluation alike."
    )


__all__ = [
    "MIXERS",
    "MIX_GROUP",
    "OPERATIONS",
    "AugmentSettings",
    "Batch",
    "CoarseDropout",
    "Colour",
    "Cutout",
    "MixMethodSettings",
    "MixSettings",
    "Mixed",
    "NormalizeSettings",
    "Operation",
    "OperationSettings",
    "Parameters",
    "apply",
    "apply_mix",
    "augment",
    "draw",
    "draw_mix",
    "measure",
    "mix_groups",
    "mixed_labels",
    "normalize",
    "without_effect",
]
