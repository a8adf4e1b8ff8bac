"""Mixing of pairs of training images, batched on the device.

`MIXERS` is the family: from the name in a recipe to the settings class. A new method is one file with its settings class (`draw`)
and its pure batched function, one line in `MIXERS` and `MixMethodSettings`, one test file.
"""

from groundup.augment.mixing.cutmix import CutMixSettings
from groundup.augment.mixing.mix import (
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
from groundup.augment.mixing.mixup import MixUpSettings

__all__ = [
    "MIXERS",
    "MIX_GROUP",
    "CutMixSettings",
    "MixMethodSettings",
    "MixSettings",
    "MixUpSettings",
    "Mixed",
    "apply_mix",
    "draw_mix",
    "mix_groups",
    "mixed_labels",
]
