"""Convolutions that keep the plane's size and leave out what changes nothing: products with padding, outputs no pool looks at.

On a plane as small as the filter much of a convolution is products with the zeros of the padding: 20 of 36 for 3x3 filters on
2x2 px, 32 of 81 on 3x3 px. And a 2x2 max-pool leaves out the last row and column of an odd plane: 13 of 49 outputs on 7x7 px.

    Shapes   features float (N, C, H, W) of any float dtype and memory format; out (N, channels_out, H, W), pooled
             (N, channels_out, H // 2, W // 2).
    Same     as the plain convolution (and max-pool), but for rounding: tests/models/test_same_size_conv.py.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models.convolution import Convolution, autocast_pair, computes_by_itself


class SameSizeConv(Convolution):
    """A convolution without bias that keeps the plane's size. Even kernels are padded by one more on the left and on top.

    identity: it starts as the identity, which copies its input on the first output channels, and random on the others; else all of
    it is random.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, identity: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=0 if kernel % 2 == 0 else kernel // 2)
        if not identity:
            return
        with torch.no_grad():
            nn.init.dirac_(self.weight[: min(channels_in, channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        if computes_by_itself(self, x) and self.kernel_size[0] % 2 and max(x.shape[2:]) <= self.kernel_size[0] > 1:
            return conv_on_small_plane(x, self.weight)
        return self._padded(x, 0, 0)

    def _padded(self, x: Tensor, rows_less: int, columns_less: int) -> Tensor:
        """The convolution without its last rows and columns of outputs, 0 or 1."""
        kernel = self.kernel_size[0]
        before, after = kernel // 2, (kernel - 1) // 2
        if before == after and not rows_less and not columns_less:
            return super().forward(x)
        # Even kernels: no output but the left-out ones looks at the last pixels. In training they go by a pad of -1, whose gradient
        # stays in channels-last order (that of a slice does not); exporters do not know one everywhere.
        if not after and not self.training:
            x = x[:, :, : x.shape[2] - rows_less, : x.shape[3] - columns_less]
            rows_less = columns_less = 0
        return self.convolve(F.pad(x, (before, after - columns_less, before, after - rows_less)))


class PooledConv(SameSizeConv):
    """A `SameSizeConv` and the 2x2 max-pool after it; of an odd plane the last row and column, which it drops, are not computed."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self._padded(x, x.shape[2] % 2, x.shape[3] % 2), 2)


def conv_on_small_plane(x: Tensor, weight: Tensor) -> Tensor:
    """`conv2d(x, weight, padding=kernel // 2)` as matrix products over the pixels that a filter really meets.

    x: (N, C, H, W) with H and W up to the odd kernel; weight: (out, C, kernel, kernel). Returns (N, out, H, W), in the memory
    order of channels-last. For the backward pass x and the weight are kept, as by a convolution.
    """
    result: Tensor = _OnSmallPlane.apply(*autocast_pair(x, weight))
    return result


class _OnSmallPlane(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        out = pixels.new_empty((*pixels.shape[:3], len(weight)))
        for seen, places in _views(x, weight):
            filled = out[seen.outputs]
            filled.copy_((pixels[seen.inputs].flatten(1) @ _filters(weight, places).mT).view_as(filled))
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        pixels, grads = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        of_pixels, of_taps = _sums(pixels), _sums(weight.permute(0, 2, 3, 1))
        for seen, places in _views(x, weight):
            some = grads[seen.outputs].flatten(1)
            if ctx.needs_input_grad[0]:
                patch = of_pixels[seen.inputs]
                patch += (some @ _filters(weight, places)).view_as(patch)
            if ctx.needs_input_grad[1]:
                products = some.mT @ pixels[seen.inputs].flatten(1)
                for place, product in zip(places, products.chunk(len(places)), strict=True):
                    taps = of_taps[place]
                    taps += product.view_as(taps)
        return (
            of_pixels.permute(0, 3, 1, 2).to(x.dtype) if ctx.needs_input_grad[0] else None,
            of_taps.permute(0, 3, 1, 2).to(weight.dtype) if ctx.needs_input_grad[1] else None,
        )


def _sums(like: Tensor) -> Tensor:
    """Zeros to add to, at least as fine as float32: a convolution too rounds its sums once, at the end."""
    return torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


class _View(NamedTuple):
    """A part of the pixels, and the outputs that see all of it and nothing else."""

    inputs: tuple[slice, ...]
    outputs: tuple[slice, ...]


def _views(x: Tensor, weight: Tensor) -> Iterator[tuple[_View, list[tuple[slice, ...]]]]:
    """Every view, and the filter's taps (of (out, row, column, C)) that lie on it for each of its outputs, row by row."""
    kernel, everything = weight.shape[2], slice(None)
    for top, bottom, rows in _same_view(x.shape[2], kernel):
        for left, right, columns in _same_view(x.shape[3], kernel):
            places: list[tuple[slice, ...]] = []
            for row in rows:
                for column in columns:
                    down, along = kernel // 2 - row, kernel // 2 - column
                    places.append((everything, slice(top + down, bottom + down), slice(left + along, right + along)))
            inputs = everything, slice(top, bottom), slice(left, right)
            outputs = everything, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            yield _View(inputs, outputs), places


def _filters(weight: Tensor, places: list[tuple[slice, ...]]) -> Tensor:
    """(outputs of a view * out, pixels of it * C): the filters as a matrix on what it sees."""
    taps = weight.permute(0, 2, 3, 1)
    return torch.cat([taps[place].flatten(1) for place in places])


def _same_view(side: int, kernel: int) -> Iterator[tuple[int, int, list[int]]]:
    """(first input, end of inputs, outputs) for every range of inputs that some outputs of a line of `side` pixels see."""
    views: dict[tuple[int, int], list[int]] = {}
    for output in range(side):
        seen = max(0, output - kernel // 2), min(side, output + kernel // 2 + 1)
        views.setdefault(seen, []).append(output)
    for (first, end), outputs in views.items():
        yield first, end, outputs
