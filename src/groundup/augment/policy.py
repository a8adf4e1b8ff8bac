"""A policy: operations applied in order, each with parameters of its own for every image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from groundup.augment.base import Batch, Operation, Parameters
from groundup.basis.seeding import generator


def draw(policy: Sequence[Operation], batch: Batch, step: int) -> list[Parameters]:
    """Parameters of every operation for the global batch of update number `step`: a function of (policy, seed, step) alone."""
    return [
        operation.draw(batch, generator(batch.seed, "augment", step, place, device=batch.device))
        for place, operation in enumerate(policy)
    ]


def apply(policy: Sequence[Operation], images: Tensor, parameters: Sequence[Parameters], part: slice) -> Tensor:
    """Augment `images` (uint8 (b, 3, S, S)), which are `part` of the global batch that `parameters` were drawn for."""
    for operation, drawn in zip(policy, parameters, strict=True):
        images = operation.apply(images, {key: value[part] for key, value in drawn.items()})
    return images


def augment(policy: Sequence[Operation], images: Tensor, batch: Batch, step: int) -> Tensor:
    """Draw and apply in one go, for a batch that is not split."""
    return apply(policy, images, draw(policy, batch, step), slice(None))


@torch.no_grad()
def without_effect(policy: Sequence[Operation], images: Tensor, batch: Batch) -> list[str]:
    """Names of the operations that changed none of `images`: a setting that does nothing should be said to do nothing."""
    idle = []
    for place, operation in enumerate(policy):
        drawn = operation.draw(batch, generator(batch.seed, "probe", place, device=batch.device))
        if torch.equal(operation.apply(images, drawn), images):
            idle.append(operation.name)
    return idle
