"""The one interface of augmentation: draw parameters for the whole batch, then apply them to any slice of it.

An operation never looks at a global random state. `draw` is given the global batch (so that the parameters are the same
however the batch is split over processes or micro-batches) and a generator seeded from (seed, step, position in the policy);
`apply` is a pure function of images and parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What an operation may base its parameters on, for the global batch of B images.

    `indices`: int64 (B,), positions of the images in the training split; `epoch`: 0-based; `seed`: the recipe's;
    `size`: side of the images in px; `mean`: float (3,), the colour mean of the data in [0, 1]; `device`: where parameters live.
    """

    indices: Tensor
    epoch: int
    seed: int
    size: int
    mean: tuple[float, float, float]
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)


class Operation(Protocol):
    """One augmentation. Settings classes of the family implement it."""

    @property
    def name(self) -> str:
        """What the operation is called in a recipe."""
        ...

    def draw(self, batch: Batch, generator: torch.Generator) -> Parameters:
        """Parameters of every image in the batch: tensors whose first dimension is B, on the batch's device."""
        ...

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The augmented images. uint8 (B, 3, S, S) in and out, same size; never in place."""
        ...
