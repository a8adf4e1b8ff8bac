"""The convolution of our networks: torch's, but for the gradient of its filters where a matrix product gives it sooner.

In bfloat16 on a CPU with AMX oneDNN takes up to five times as long for that gradient on small planes as one product over the
columns that the filters meet: 36.5 against 8.9 ms for 512 -> 512 filters of 3x3 on 128 planes of 4x4 px (torch 2.13, two cores).

    Shapes   features float (N, C, H, W) of any float dtype and memory format; out (N, channels_out, H', W') as nn.Conv2d.
    Same     as nn.Conv2d in value and names of weights; in gradient but for rounding (tests/models/test_convolution.py).
             Only what oneDNN leaves unwritten is mended (`_within`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.basis.machine import multiplies_bfloat16

_Pair = tuple[int, int]
# Outputs of a plane up to which the product is sooner there, 8x8; on larger ones gathering the columns costs more than it saves.
_FEW_OUTPUTS = 64
# Weights of a layer from which it is: a step of `digits`, whose layers are smaller, took a third longer by products.
_MANY_WEIGHTS = 1 << 18


class Convolution(nn.Conv2d):
    """`nn.Conv2d` without bias; the module says what differs in training, eager, in bfloat16 on a CPU with AMX, on few outputs."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = int(self.padding[0])
        stride = self.stride if torch.compiler.is_compiling() else _within(self.stride[0], x)
        return self.convolve(x, (stride[0], stride[1]), (padding, padding))

    def convolve(self, x: Tensor, stride: _Pair = (1, 1), padding: _Pair = (0, 0)) -> Tensor:
        """The convolution of x with the layer's filters."""
        kernel = self.kernel_size[0]
        rows, columns = (
            (size + 2 * pad - kernel) // step + 1 for size, pad, step in zip(x.shape[2:], padding, stride, strict=True)
        )
        gains = rows * columns <= _FEW_OUTPUTS and self.weight.numel() >= _MANY_WEIGHTS
        if gains and computes_by_itself(self, x) and _is_fast_bfloat16(x):
            return conv_on_few_outputs(x, self.weight, stride, padding)
        return F.conv2d(x, self.weight, stride=stride, padding=padding)


def computes_by_itself(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer may be made of operations of our own. In evaluation it stays a convolution, which exporters, quantisers and
    counters of FLOP know; for the compiler, which needs 80 s for the loops over views (torch 2.13, two cores); and on accelerators,
    which would start dozens of small kernels."""
    return layer.training and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _within(stride: int, x: Tensor) -> _Pair:
    """The stride, but no longer than the plane: what a padding of half a kernel leaves there is one output by either.

    For a stride beyond the plane oneDNN does not write, in bfloat16, the gradient of the filters' taps that meet padding alone
    (3x3 at a stride of 2 on planes of 1x1 px), nor all outputs of planes one pixel wide: they stay what the memory held before,
    NaN at times (torch 2.13).
    """
    return min(stride, max(x.shape[2], 1)), min(stride, max(x.shape[3], 1))


def _is_fast_bfloat16(x: Tensor) -> bool:
    """Whether a convolution of `x` on this CPU would be computed in bfloat16, by its matrix units."""
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    return dtype == torch.bfloat16 and multiplies_bfloat16()


def conv_on_few_outputs(x: Tensor, weight: Tensor, stride: _Pair = (1, 1), padding: _Pair = (0, 0)) -> Tensor:
    """`conv2d(x, weight, stride=stride, padding=padding)` whose filters get their gradient by one product over all columns.

    x: (N, C, H, W); weight: (out, C, kernel, kernel). For the backward pass x and the weight are kept, as by a convolution.
    """
    result: Tensor = _OnFewOutputs.apply(*autocast_pair(x, weight), stride, padding)
    return result


class _OnFewOutputs(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Pair, _Pair], output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_filters = ctx.needs_input_grad[:2]
        of_x = _gradient_of_pixels(x, weight, grad, ctx.stride, ctx.padding) if wants_x else None
        of_filters = _gradient_of_filters(x, weight, grad, ctx.stride, ctx.padding) if wants_filters else None
        return of_x, of_filters, None, None


def _gradient_of_pixels(x: Tensor, weight: Tensor, grad: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
    fixed = stride, padding, (1, 1), False, (0, 0), 1  # dilation, transposed, output padding, groups
    result: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *fixed, (True, False, False))[0]
    return result


def _gradient_of_filters(x: Tensor, weight: Tensor, grad: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
    kernel, (rows, columns) = weight.shape[2], grad.shape[2:]
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
    pixels = padded.permute(0, 2, 3, 1)
    down, along = stride
    taps = [
        pixels[:, i : i + down * (rows - 1) + 1 : down, j : j + along * (columns - 1) + 1 : along]
        for i in range(kernel)
        for j in range(kernel)
    ]
    met = (torch.cat(taps, dim=3) if len(taps) > 1 else taps[0]).flatten(0, 2)
    products = grad.permute(0, 2, 3, 1).flatten(0, 2).mT @ met
    return products.view(len(weight), kernel, kernel, -1).permute(0, 3, 1, 2)


def autocast_pair(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in what autocast computes in, if it is on."""
    if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x, weight
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype)
