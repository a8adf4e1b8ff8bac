"""From bytes to what the network sees: resize, scale to [0, 1], subtract the mean, divide by the standard deviation.

Shapes   images uint8 (B, 3, S, S) -> float32 (B, 3, R, R), channels-last; mean and std float (3,) of pixels in [0, 1].
Note     Training, evaluation and prediction all call `normalize`, so they cannot disagree about the constants
         (system 002 trained and tested with different ones).
"""

import functools
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from groundup.basis.settings import Settings

_MEASURED_AT_ONCE = 8 << 20  # values in float64
Colour = tuple[float, float, float]
_Share = Annotated[float, Field(ge=0, le=1)]
_Spread = Annotated[float, Field(gt=0, le=1)]


class NormalizeSettings(Settings):
    """Channel mean and standard deviation of pixels in [0, 1]. Left out, they are measured on the training split and written
    into the run's recipe."""

    mean: tuple[_Share, _Share, _Share] | None = Field(
        None, description="Mean per channel (red, green, blue), in [0, 1]; null measures it."
    )
    std: tuple[_Spread, _Spread, _Spread] | None = Field(
        None, description="Standard deviation per channel, above 0 and at most 1; null measures it."
    )


def measure(blocks: Iterable[Tensor]) -> tuple[Colour, Colour]:
    """Mean and standard deviation per channel of images that come block by block, uint8 (N, H, W, 3), rounded to 4 digits to be
    written down."""
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for images in blocks:
        for chunk in images.split(max(1, _MEASURED_AT_ONCE // images[0].numel())):
            pixels = chunk.reshape(-1, 3).double() / 255
            total += pixels.sum(0)
            squares += (pixels**2).sum(0)
            count += len(pixels)
    mean = total / count
    # A channel without any variation would otherwise divide by zero.
    std = (squares / count - mean**2).clamp(min=0).sqrt().clamp(min=1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: Tensor) -> Colour:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue


@functools.cache
def _on_device(values: Colour, device: torch.device) -> Tensor:
    # Made once per device: copying from the host waits for a GPU, and no step may wait.
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def normalize(images: Tensor, mean: Colour, std: Colour, resolution: int | None = None) -> Tensor:
    """See the module. `resolution`: side in px to resize to (bilinear, antialiased), None keeps the size."""
    scale = _on_device(std, images.device).mul(255).reciprocal()
    shift = _on_device(mean, images.device).mul(255)
    x = (images.float() - shift) * scale
    if resolution is not None and resolution != x.shape[-1]:
        x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)
