"""Pad-crop: pad the image on all sides, then cut a window of the old size at a random place.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `dy`, `dx` int64 (B,) in [0, 2 * pad].
Source   K. He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2: pad 4, zeros.
Values   CIFAR: pad 4 with zeros for long runs, pad 2 with reflection for runs under about 20 epochs.
Cost     two gathers of the batch.
Hurts    when objects touch the border of small images and pad is large.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation


class PadCrop(UsualOperation):
    """Pad on all sides, cut a window of the old size at a random place."""

    name: Literal["pad_crop"] = Field(description="Pad, then cut a window at random.")
    pad: int = Field(4, ge=1, description="Padding on each side in px; less than the image's side for `reflect`.")
    mode: Literal["zero", "reflect"] = Field(
        "zero", description="What the padding shows: black, or the image mirrored."
    )

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        offsets = torch.randint(0, 2 * self.pad + 1, (2, len(batch)), generator=generator, device=batch.device)
        return {"dy": offsets[0], "dx": offsets[1]}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return pad_crop(images, parameters["dy"], parameters["dx"], pad=self.pad, mode=self.mode)


def pad_crop(images: Tensor, dy: Tensor, dx: Tensor, *, pad: int, mode: str = "zero") -> Tensor:
    """Cut the window whose top left corner lies at (dy, dx) of the padded image. `images`: (B, C, H, W), any dtype."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + dy[:, None] - pad  # (B, H), in the unpadded image
    columns = torch.arange(width, device=images.device) + dx[:, None] - pad
    # Gathering rows and columns by index needs no padded copy; what lies outside is mirrored or blanked.
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    channels_last = images.permute(0, 2, 3, 1)
    place = torch.arange(len(images), device=images.device)[:, None, None]
    cut = channels_last[place, _reflected(rows, height)[:, :, None], _reflected(columns, width)[:, None, :]]
    cut = cut.permute(0, 3, 1, 2)
    return cut if mode == "reflect" else cut * inside.to(cut.dtype)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions mirrored at 0 and size - 1 (the border pixel is not repeated), as torch's `reflect` padding does."""
    return (size - 1) - (positions.abs() - (size - 1)).abs()
