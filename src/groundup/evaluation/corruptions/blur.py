"""Blur: defocus, frosted glass, motion and zoom.

Shapes   images uint8 (B, 3, S, S), the parameters of one severity, seeds int64 (B,) -> uint8 (B, 3, S, S).
Source   Hendrycks and Dietterich (arXiv 1903.12261) and the scripts make_cifar_c.py and make_imagenet_c.py they published.
Motion   is ImageMagick's: one-sided weights exp(-i**2 / (2 sigma**2)), i = 0 to 2 * radius, at the whole positions nearest to a
         ray that leaves the pixel at an angle; beyond the border stands the border pixel; rounded to the nearest level.
Glass    as in the published data, where the "swap" of two pixels (two views of one array) in truth copies one onto the other.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.augment.gaussian_noise import random_bits
from groundup.evaluation.corruptions.base import (
    Corruption,
    cut,
    gaussian_weights,
    normalised,
    one_each,
    smoothed,
    zoomed,
)


def defocus_blur(images: Tensor, lens: tuple[float, float], seeds: Tensor) -> Tensor:
    """Spread every pixel over a disk. `lens`: its radius, and the sigma of the Gaussian that softens its edge, in px.

    The Gaussian is cut to 3 px, or 5 px for a radius above 8; at its border the image is mirrored.
    """
    radius, softness = lens
    reach = 1 if radius <= 8 else 2
    side = images.shape[-1]
    around = int(radius) + reach
    padded = F.pad(images.float(), (around,) * 4, mode="reflect")
    # Sums of whole numbers, exact: up to each column, so that a row of the disk is one difference.
    sums = F.pad(padded.cumsum(-1), (1, 0))
    grown = side + 2 * reach  # the disk is laid on a margin too, for the Gaussian that follows
    half_widths = [math.isqrt(int(radius**2 - dy**2)) for dy in range(-int(radius), int(radius) + 1)]
    middle = int(radius)
    total = torch.zeros_like(padded[..., :grown, :grown])
    for row, half in enumerate(half_widths):
        rows = sums[..., row : row + grown, :]
        total += rows[..., middle + half + 1 :][..., :grown] - rows[..., middle - half :][..., :grown]
    blurred = total / sum(2 * half + 1 for half in half_widths)
    weights = gaussian_weights(softness, reach)
    # `smoothed` pads by its own reach: only the middle, where that is not seen, is kept.
    return cut(smoothed(blurred, weights)[..., reach:-reach, reach:-reach])


def glass_blur(images: Tensor, glass: tuple[float, int, int], seeds: Tensor) -> Tensor:
    """Blur, let pixels wander, blur again. `glass`: sigma and farthest step in px, and how often the pixels wander."""
    sigma, farthest, rounds = glass
    weights = gaussian_weights(sigma, int(4 * sigma + 0.5))
    side = images.shape[-1]
    pixels = cut(smoothed(images.float(), weights)).flatten(2)
    for turn in range(rounds):
        steps = random_bits(seeds + turn, 2, side, side) % (2 * farthest) - farthest  # from -farthest to farthest - 1
        sources = wandered(steps[:, 0], steps[:, 1], farthest)
        pixels = pixels.gather(2, sources.flatten(1)[:, None].expand_as(pixels))
    return cut(smoothed(pixels.view(images.shape).float(), weights))


def wandered(dx: Tensor, dy: Tensor, margin: int) -> Tensor:
    """Which pixel (row * S + column, int64 (B, S, S)) each place shows in the end.

    From the last pixel to the first, those at rows and columns margin + 1 to S - margin take what then stands `dx`, `dy`
    (integers (B, S, S), from -margin to margin - 1) beside them.
    """
    side = dx.shape[-1]
    line = torch.arange(side, device=dx.device)
    taken = (line > margin) & (line <= side - margin)
    own = line[:, None] * side + line
    moves = taken[:, None] & taken
    source = torch.where(moves, own + dy.long() * side + dx, own).flatten(1)
    # A source that comes later was already replaced: follow it, and halve the rest of every path at each look.
    waits = (source > own.flatten()) & moves.flatten()[source]
    for _ in range((side * side).bit_length() if margin > 1 else 0):  # a step of 1 px leads to earlier places only
        source, waits = (
            torch.where(waits, source.gather(1, source), source),
            waits & waits.gather(1, source),
        )
    return source.view_as(dx)


def motion_blur(images: Tensor, motion: tuple[int, float], seeds: Tensor) -> Tensor:
    """Smear along a line, up to 45 degrees from level. `motion`: radius and sigma in px."""
    return smeared(images.float(), motion, one_each(seeds, -45, 45)).round_().clamp_(0, 255).to(torch.uint8)


def smeared(values: Tensor, motion: tuple[int, float], angles: Tensor) -> Tensor:
    """Motion blur of `values` (B, C, S, S), see the module. `motion`: radius and sigma in px; `angles`: (B,) in degrees, 0 to
    the right, 90 down: the way to the pixels that are mixed in."""
    radius, sigma = motion
    count, channels, side, _ = values.shape
    weights = normalised([math.exp(-0.5 * (i / sigma) ** 2) for i in range(2 * radius + 1)])
    weights = normalised([weight for weight in weights if weight > 1e-6])  # what is less changes no level
    radians = torch.deg2rad(angles.double())[:, None]
    line, flat = torch.arange(side, device=values.device), values.flatten(2)
    total = torch.zeros_like(flat)
    for i, weight in enumerate(weights):
        across, down = ((i * part - 0.5).ceil().long() for part in (radians.cos(), radians.sin()))
        x, y = (line + across).clamp_(0, side - 1), (line + down).clamp_(0, side - 1)  # each (B, S)
        places = (y[:, :, None] * side + x[:, None]).flatten(1)[:, None].expand(count, channels, -1)
        total += flat.gather(2, places) * weight
    return total.view(values.shape)


def zoom_blur(images: Tensor, factors: Sequence[float], seeds: Tensor) -> Tensor:
    """The mean of the image and of itself enlarged by each of `factors`."""
    levels = images.float()
    total = levels.clone()
    for factor in factors:
        total += zoomed(levels, factor)
    return cut(total / (len(factors) + 1))


def _steps(stop: float, step: float) -> tuple[float, ...]:
    return tuple(np.arange(1, stop, step).tolist())  # its rounding decides whether `stop` is in


DEFOCUS_BLUR = Corruption(
    defocus_blur,
    small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
GLASS_BLUR = Corruption(
    glass_blur,
    small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
MOTION_BLUR = Corruption(
    motion_blur,
    small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
ZOOM_BLUR = Corruption(
    zoom_blur,
    small=tuple(_steps(stop, 0.01) for stop in (1.06, 1.11, 1.16, 1.21, 1.26)),
    large=(_steps(1.11, 0.01), _steps(1.16, 0.01), _steps(1.21, 0.02), _steps(1.26, 0.02), _steps(1.31, 0.03)),
)
