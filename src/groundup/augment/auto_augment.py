"""AutoAugment: one of 25 learned pairs of operations per image; each of the two happens with a probability of its own.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `operation` int64 and `magnitude` float32 (B, 2), see `space`; an
         operation that does not happen is Identity.
Source   E. Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data" (arXiv 1805.09501), tables 7 (CIFAR-10) and 9
         (ImageNet); magnitudes are bins of 10 in the ranges of torchvision's AutoAugment, signs are fair.
Values   `cifar10` for CIFAR-10 and CIFAR-100 (WRN-28-10, 200 epochs, with cutout 16: 82.9), `imagenet` for photographs.
Cost     two passes of TrivialAugment at most.
Hurts    in short runs; on data far from what the pairs were learned on.
"""

import functools
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation
from groundup.augment.geometry import Interpolation
from groundup.augment.rand_augment import moderate
from groundup.augment.space import Scale, Space, perform, tables

BINS = 10
# One pair per line and entry: operation, tenths of probability, bin (left out where the operation has no magnitude).
_CIFAR10 = """
Invert 1, Contrast 2 6         | Rotate 7 2, TranslateX 3 9     | Sharpness 8 1, Sharpness 9 3
ShearY 5 8, TranslateY 7 9     | AutoContrast 5, Equalize 9     | ShearY 2 7, Posterize 3 7
Color 4 3, Brightness 6 7      | Sharpness 3 9, Brightness 7 9  | Equalize 6, Equalize 5
Contrast 6 7, Sharpness 6 5    | Color 7 7, TranslateX 5 8      | Equalize 3, AutoContrast 4
TranslateY 4 3, Sharpness 2 6  | Brightness 9 6, Color 2 8      | Solarize 5 2, Invert 0
Equalize 2, AutoContrast 6     | Equalize 2, Equalize 6         | Color 9 9, Equalize 6
AutoContrast 8, Solarize 2 8   | Brightness 1 3, Color 7 0      | Solarize 4 5, AutoContrast 9
TranslateY 9 9, TranslateY 7 9 | AutoContrast 9, Solarize 8 3   | Equalize 8, Invert 1
TranslateY 7 9, AutoContrast 9
"""
_IMAGENET = """
Posterize 4 8, Rotate 6 9      | Solarize 6 5, AutoContrast 6   | Equalize 8, Equalize 6
Posterize 6 7, Posterize 6 6   | Equalize 4, Solarize 2 4       | Equalize 4, Rotate 8 8
Solarize 6 3, Equalize 6       | Posterize 8 5, Equalize 10     | Rotate 2 3, Solarize 6 8
Equalize 6, Posterize 4 6      | Rotate 8 8, Color 4 0          | Rotate 4 9, Equalize 6
Equalize 0, Equalize 8         | Invert 6, Equalize 10          | Color 6 4, Contrast 10 8
Rotate 8 8, Color 10 2         | Color 8 8, Solarize 8 7        | Sharpness 4 7, Invert 6
ShearX 6 5, Equalize 10        | Color 4 0, Equalize 6          | Equalize 4, Solarize 2 4
Solarize 6 5, AutoContrast 6   | Invert 6, Equalize 10          | Color 6 4, Contrast 10 8
Equalize 8, Equalize 6
"""


class Entry(NamedTuple):
    """One half of a pair: `operation` happens with `probability` at bin `magnitude` of `BINS`."""

    operation: str
    probability: float
    magnitude: int


Pair = tuple[Entry, Entry]


def _read(table: str) -> tuple[Pair, ...]:
    pairs = [[_entry(half) for half in pair.split(",")] for pair in table.strip().replace("\n", "|").split("|")]
    return tuple((first, second) for first, second in pairs)


def _entry(text: str) -> Entry:
    operation, tenths, *magnitude = text.split()
    return Entry(operation, int(tenths) / 10, int(magnitude[0]) if magnitude else 0)


POLICIES: dict[str, tuple[Pair, ...]] = {"cifar10": _read(_CIFAR10), "imagenet": _read(_IMAGENET)}


def operations(size: int) -> Space:
    """The space of AutoAugment: that of RandAugment, and Invert."""
    return (*moderate(size), Scale("Invert"))


class _Pairs(NamedTuple):
    """25 pairs as tensors (25, 2): `entry` int64, places in the space; `probability` float32; `magnitude` int64, bins."""

    entry: Tensor
    probability: Tensor
    magnitude: Tensor


@functools.cache
def _pairs(policy: str, device: torch.device) -> _Pairs:
    # Made once per device: copying from the host waits for a GPU, and no step may wait.
    place = {scale.name: i for i, scale in enumerate(operations(0))}
    pairs = POLICIES[policy]
    return _Pairs(
        torch.tensor([[place[half.operation] for half in pair] for pair in pairs], device=device),
        torch.tensor([[half.probability for half in pair] for pair in pairs], device=device),
        torch.tensor([[half.magnitude for half in pair] for pair in pairs], device=device),
    )


class AutoAugment(UsualOperation):
    """One of 25 learned pairs of operations per image."""

    name: Literal["auto_augment"] = Field(description="One of 25 learned pairs of operations per image.")
    policy: Literal["cifar10", "imagenet"] = Field("cifar10", description="Data that the pairs were learned on.")
    interpolation: Interpolation = Field("nearest", description="How shears and rotations read between pixels.")

    def draw_parameters(self, batch: Batch, generator: Generator) -> Parameters:
        pairs = _pairs(self.policy, batch.device)
        chosen = torch.randint(len(pairs.entry), (len(batch),), generator=generator, device=batch.device)
        happens, negative = torch.rand((2, len(batch), 2), generator=generator, device=batch.device)
        entry = torch.where(happens < pairs.probability[chosen], pairs.entry[chosen], 0)  # 0 is Identity
        space = tables(operations(batch.size), BINS, batch.device)
        return space.choose(entry, pairs.magnitude[chosen], negative < 0.5)

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        among = {half.operation for pair in POLICIES[self.policy] for half in pair}
        for operation, magnitude in zip(parameters["operation"].T, parameters["magnitude"].T, strict=True):
            images = perform(images, operation, magnitude, among=among, interpolation=self.interpolation)
        return images
