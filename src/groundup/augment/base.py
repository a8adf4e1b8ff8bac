"""The one interface of augmentation: draw parameters for the whole batch, then apply them to any slice of it.

An operation never looks at a global random state. `draw` is given the global batch (so that the parameters are the same
however the batch is split over processes or micro-batches) and a generator seeded from (seed, step, position in the policy);
`apply` is a pure function of images and parameters.
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from groundup.basis.settings import Settings

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


class RandomOperation(Settings):
    """Base of operations that act on each image with probability `p`, and leave the others as they are."""

    p: float = Field(1.0, gt=0, le=1, description="Probability that an image is changed, above 0.")

    def draw(self, batch: Batch, generator: torch.Generator) -> Parameters:
        """See `Operation`; the key `chosen`, bool (B,), says which images are changed."""
        chosen = torch.rand(len(batch), generator=generator, device=batch.device) < self.p
        return {"chosen": chosen, **self.draw_parameters(batch, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """See `Operation`."""
        return on_chosen(images, parameters["chosen"], parameters, self.transform)

    @abstractmethod
    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        """Parameters of every image, drawn whether it is chosen or not."""

    @abstractmethod
    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Change every one of `images`, uint8 (B, 3, S, S); never in place."""


class UsualOperation(RandomOperation):
    """Base of operations that usually act on every image: at p 1 no coin is drawn, below it after all other parameters.

    So their draws are the same whatever `p` is, and those at p 1 are what they were before there was a `p`.
    """

    def draw(self, batch: Batch, generator: torch.Generator) -> Parameters:
        """See `Operation`; the key `chosen`, bool (B,), is there at p below 1 only."""
        drawn = self.draw_parameters(batch, generator)
        if self.p == 1:
            return drawn
        return {**drawn, "chosen": torch.rand(len(batch), generator=generator, device=batch.device) < self.p}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """See `Operation`."""
        return self.transform(images, parameters) if self.p == 1 else super().apply(images, parameters)


def on_chosen(
    images: Tensor, chosen: Tensor, parameters: Parameters, transform: Callable[[Tensor, Parameters], Tensor]
) -> Tensor:
    """`transform` where `chosen`, bool (B,), is true. A CPU computes only those; a GPU all, since to count them is to wait."""
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], transform(images, parameters), images)
    places = chosen.nonzero().flatten()
    if len(places) == len(images):
        return transform(images, parameters)
    if len(places) == 0:
        return images
    changed = transform(images[places], {key: value[places] for key, value in parameters.items()})
    return images.index_copy(0, places, changed)


def fill_colour(batch: Batch, fill: str) -> Tensor:
    """What blank places show in every image of the batch, uint8 (B, 3): `mean` of the data, or `black`."""
    return _colour(batch.mean if fill == "mean" else (0.0, 0.0, 0.0), batch.device).expand(len(batch), 3)


@functools.cache
def _colour(shares: tuple[float, float, float], device: torch.device) -> Tensor:
    # Made once per device: copying from the host waits for a GPU, and no step may wait.
    return (torch.tensor(shares, device=device) * 255).round().to(torch.uint8)
