"""Settings that are a strength or a range, and parameters drawn uniformly from it, one for every image."""

import math

import torch
from torch import Tensor

from groundup.augment.base import Batch

Span = tuple[float, float]
Strength = float | Span


def acceptable(strength: Strength) -> Strength:
    """For pydantic: refuse a range whose first end is the larger one, and a strength below 0."""
    if isinstance(strength, tuple):
        if strength[0] > strength[1]:
            raise ValueError(f"the range {list(strength)} is reversed; write {list(reversed(strength))}")
    elif strength < 0:
        raise ValueError(f"{strength} is a strength and cannot be below 0; for a range write [low, high]")
    return strength


def around(strength: Strength, centre: float, lowest: float = -math.inf) -> Span:
    """A range as it is; a single strength x as centre - x (but not below `lowest`) to centre + x."""
    if isinstance(strength, tuple):
        return strength
    return max(lowest, centre - strength), centre + strength


def uniform(span: Span, batch: Batch, generator: torch.Generator) -> Tensor:
    """float32 (B,) on the batch's device, uniform between the ends of `span`."""
    return torch.empty(len(batch), device=batch.device).uniform_(*span, generator=generator)
