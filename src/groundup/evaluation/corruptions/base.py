"""What the corruptions share: their description, random numbers, the cut to bytes, and a zoom.

Shapes   images uint8 (B, 3, S, S); seeds int64 (B,), one for every image; values float32 (B, C, S, S), in levels (0 to 255) or
         shares of full scale (0 to 1), as said where they are used.
Random   every number is a hash of the image's seed and its own place, never of the batch. `seeds + 1` and so on are further,
         independent streams of the same image.
Exact    filters are sums of shifted copies, in an order that no batch size changes, and no matrix unit of a GPU rounds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.augment.gaussian_noise import random_bits

P = TypeVar("P")
SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64  # px: the largest side that takes the parameters of CIFAR-C
_ALMOST = 1e-3  # levels; what float32 may lack of a whole level


@dataclass(frozen=True)
class Corruption(Generic[P]):
    """One corruption: `apply(images, parameters, seeds)` and its published parameters for severities 1 to 5.

    small: of CIFAR-C, for sides up to 64 px; large: of ImageNet-C, for larger ones.
    """

    apply: Callable[[Tensor, P, Tensor], Tensor]
    small: Sequence[P]
    large: Sequence[P]

    def parameters(self, severity: int, side: int) -> P:
        """The parameters of `severity`, 1 to 5, for images of `side` px."""
        return (self.small if side <= SMALL else self.large)[severity - 1]


def uniform(seeds: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Numbers strictly between 0 and 1 on a grid of 2**24: float32 (B, channels, height, width)."""
    return ((random_bits(seeds, channels, height, width) >> 8) & 0xFFFFFF).float().add_(0.5).div_(1 << 24)


def one_each(seeds: Tensor, low: float, high: float) -> Tensor:
    """One number of every image, uniform between `low` and `high`: float32 (B,)."""
    return low + (high - low) * uniform(seeds, 1, 1, 1).flatten()


def cut(levels: Tensor) -> Tensor:
    """Levels as bytes as in the published data: outside of [0, 255] to its ends, and the fraction cut off."""
    return levels.add(_ALMOST).clamp_(0, 255).to(torch.uint8)


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights over their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def gaussian_weights(sigma: float, reach: int) -> list[float]:
    """2 * reach + 1 weights of a Gaussian of `sigma` px, with the sum 1."""
    return normalised([math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)])


def smoothed(values: Tensor, weights: Sequence[float], border: str = "replicate") -> Tensor:
    """`values` (B, C, H, W) filtered with `weights` (odd in number) along both axes; `border`: a mode of torch's `pad`."""
    reach = len(weights) // 2
    height, width = values.shape[-2:]
    if reach == 0:
        return values
    padded = F.pad(values, (reach,) * 4, mode=border)
    along_x = weighted_sum([padded[..., i : i + width] for i in range(len(weights))], weights)
    return weighted_sum([along_x[..., i : i + height, :] for i in range(len(weights))], weights)


def weighted_sum(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the parts times their weights, one after the other."""
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += part * weight  # rounded twice everywhere; a fused step would round differently at the end of a row
    return total


def zoomed(values: Tensor, factor: float) -> Tensor:
    """The middle of `values` (B, C, S, S) enlarged by `factor`, at least 1, to the same size, linearly.

    As the published code does it with `scipy.ndimage.zoom`: the middle ceil(S / factor) px are spread over
    round(ceil(S / factor) * factor) px, first on first and last on last, and of these the middle S px are kept.
    """
    side = values.shape[-1]
    crop = math.ceil(side / factor)
    count = round(crop * factor)
    if count == crop:
        return values
    kept = (count - side) // 2
    places = torch.arange(kept, kept + side, dtype=torch.float64) * ((crop - 1) / (count - 1))
    low = places.floor().long().clamp_(max=crop - 2)
    share = (places - low).float().to(values.device)
    low = (low + (side - crop) // 2).to(values.device)
    rows = _between(values.index_select(2, low), values.index_select(2, low + 1), share[:, None])
    return _between(rows.index_select(3, low), rows.index_select(3, low + 1), share)


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return other.sub_(one).mul_(share).add_(one)
