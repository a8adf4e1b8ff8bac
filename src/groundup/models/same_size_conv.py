"""Convolutions that keep the plane's size and leave out what changes nothing: products with padding, outputs no pool looks at.

On a plane as small as the filter much of a convolution is products with the zeros of the padding: 20 of 36 for 3x3 filters on
2x2 px, 32 of 81 on 3x3 px. And a 2x2 max-pool leaves out the last row and column of an odd plane: 13 of 49 outputs on 7x7 px.

    Shapes   features float (N, C, H, W) of any float dtype and memory format; out (N, channels_out, H, W), pooled
             (N, channels_out, H // 2, W // 2).
    Same     as the plain convolution (and max-pool), but for rounding: tests/models/test_same_size_conv.py.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SameSizeConv(nn.Conv2d):
    """A convolution without bias that keeps the plane's size. Even kernels are padded by one more on the left and on top.

    identity: it starts as the identity, which copies its input on the first output channels, and random on the others; else all of
    it is random.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, identity: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=0 if kernel % 2 == 0 else kernel // 2, bias=False)
        if not identity:
            return
        with torch.no_grad():
            nn.init.dirac_(self.weight[: min(channels_in, channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        # In evaluation it stays a convolution, which exporters, quantisers and counters of FLOP know.
        if self.training and kernel % 2 and max(x.shape[2:]) <= kernel > 1:
            return conv_on_small_plane(x, self.weight)
        return self._padded(x, 0, 0)

    def _padded(self, x: Tensor, rows_less: int, columns_less: int) -> Tensor:
        """The convolution without its last rows and columns of outputs."""
        kernel = self.kernel_size[0]
        before, after = kernel // 2, (kernel - 1) // 2
        if before == after and not rows_less and not columns_less:
            return super().forward(x)
        return F.conv2d(F.pad(x, (before, after - columns_less, before, after - rows_less)), self.weight)


class PooledConv(SameSizeConv):
    """A `SameSizeConv` and the 2x2 max-pool after it; of an odd plane the last row and column, which it drops, are not computed."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self._padded(x, x.shape[2] % 2, x.shape[3] % 2), 2)


def conv_on_small_plane(x: Tensor, weight: Tensor) -> Tensor:
    """`conv2d(x, weight, padding=kernel // 2)` as matrix products over the pixels that a filter really meets.

    x: (N, C, H, W) with H and W up to the odd kernel; weight: (out, C, kernel, kernel). Returns (N, out, H, W), in the memory
    order of channels-last. All outputs that see the same pixels are one product.
    """
    kernel, (images, _, height, width) = weight.shape[2], x.shape
    pixels, filters = x.permute(0, 2, 3, 1), weight.permute(2, 3, 1, 0)
    outputs: dict[tuple[int, int], Tensor] = {}
    for top, bottom, rows in _same_view(height, kernel):
        for left, right, columns in _same_view(width, kernel):
            places = [(row, column) for row in rows for column in columns]
            shifts = [(kernel // 2 - row, kernel // 2 - column) for row, column in places]
            met = [filters[top + down : bottom + down, left + along : right + along] for down, along in shifts]
            matrix = torch.stack(met, dim=3).reshape(-1, len(places) * len(weight))
            product = pixels[:, top:bottom, left:right].reshape(images, -1) @ matrix
            outputs.update(zip(places, product.view(images, len(places), -1).unbind(1), strict=True))
    ordered = [outputs[row, column] for row in range(height) for column in range(width)]
    return torch.stack(ordered, dim=1).view(images, height, width, -1).permute(0, 3, 1, 2)


def _same_view(side: int, kernel: int) -> Iterator[tuple[int, int, list[int]]]:
    """(first input, end of inputs, outputs) for every range of inputs that some outputs of a line of `side` pixels see."""
    views: dict[tuple[int, int], list[int]] = {}
    for output in range(side):
        seen = max(0, output - kernel // 2), min(side, output + kernel // 2 + 1)
        views.setdefault(seen, []).append(output)
    for (first, end), outputs in views.items():
        yield first, end, outputs
