"""What a network holds and what it computes: parameters and floating-point operations.

A multiply-add is 2 FLOP. Counted are convolutions and matrix products, whether they come from a module or from a
functional call, so the fixed filters of `blur_pool` too; norms, activations, pooling and sums are left out, as is usual.
Products with the zeros of a convolution's padding count, as is usual too, whether a kernel makes them or not.
A training step is taken as 3 times the forward pass: the outputs, the gradient of the activations, the gradient of the
weights.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters (those with `requires_grad`; buffers are no parameters)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def forward_flops(model: nn.Module, image_size: int) -> int:
    """FLOP of the forward pass of one RGB image of `image_size` x `image_size` pixels in evaluation mode.

    The pass is really run, on one image of zeros, on the device and in the dtype of the parameters (on the meta device
    it costs nothing). The model comes back as it was, each submodule in its own mode. Give the plain module, not the
    one that `torch.compile` returned.
    """
    first = next(model.parameters(), torch.empty(0))
    images = torch.zeros(1, 3, image_size, image_size, device=first.device, dtype=first.dtype)
    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(images)
    finally:
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops()
