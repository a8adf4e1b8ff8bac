"""AugMix: several chains of operations per image, mixed with one another and with the image itself.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `operation` int64 and `magnitude` float32 (B, width, longest chain), see
         `space`, Identity after a chain's end; `weights` float32 (B, 1 + width), summing to 1, the image's own first.
Source   D. Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty" (arXiv 1912.02781);
         ranges of torchvision's AugMix: 10 bins of which the weakest `severity` are drawn, chains of 1 to 3 operations, the
         weights Dirichlet(alpha) among the chains and Beta(alpha, alpha) between them and the image. The mixture is rounded,
         where torchvision cuts it, which darkens by half a grey level.
Values   severity 3, width 3, depth -1, alpha 1. Left out here: the paper's Jensen-Shannon consistency loss, which compares
         three views of an image and gives a good part of its gain in robustness.
Cost     about ten times that of TrivialAugment at the defaults: `width` times the mean depth (2), bilinear, and the mixing.
Hurts    in short runs. `all_ops: true` trains on colours and sharpness that corruption benchmarks (ImageNet-C, CIFAR-C) test:
         the paper's numbers are without them.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from groundup.augment.base import Batch, Parameters, UsualOperation
from groundup.augment.geometry import Interpolation
from groundup.augment.space import PLACES, Space, draw_operations, perform, space

BINS = 10
_LONGEST = 3
_TESTED_BY_CORRUPTIONS = ("Brightness", "Color", "Contrast", "Sharpness")


def operations(size: int, all_ops: bool) -> Space:
    """The space of AugMix for images of side `size` px, Identity not in it."""
    full = space(shear=0.3, shift=size / 3.0, angle=30.0, colour=0.9, bits=(4, 0))
    left_out = ("Identity",) if all_ops else ("Identity", *_TESTED_BY_CORRUPTIONS)
    return tuple(scale for scale in full if scale.name not in left_out)


class AugMix(UsualOperation):
    """Chains of operations, mixed with one another and with the image."""

    name: Literal["augmix"] = Field(description="Chains of operations, mixed with the image.")
    severity: int = Field(3, ge=1, le=BINS, description="Number of the weakest of 10 magnitudes that are drawn.")
    width: int = Field(3, ge=1, description="Number of chains per image.")
    depth: Literal[-1] | Annotated[int, Field(ge=1)] = Field(
        -1, description="Operations per chain, 1 or more; -1 draws 1 to 3 for each chain."
    )
    # Below 0.1 Gamma variates begin to underflow in float32, and a row would fall back on equal weights.
    alpha: float = Field(
        1.0,
        ge=0.1,
        description="Concentration of the mixing weights, at least 0.1: the smaller, the more one of them wins.",
    )
    all_ops: bool = Field(True, description="Brightness, Color, Contrast and Sharpness too.")
    interpolation: Interpolation = Field("bilinear", description="How shears and rotations read between pixels.")

    def draw_parameters(self, batch: Batch, generator: Generator) -> Parameters:
        longest = _LONGEST if self.depth == -1 else self.depth
        shape = (len(batch), self.width, longest)
        drawn = draw_operations(
            operations(batch.size, self.all_ops), shape, generator, bins=BINS, weakest=0, strongest=self.severity - 1
        )
        device = batch.device
        depth = torch.randint(1, _LONGEST + 1, (*shape[:2], 1), generator=generator, device=device)
        if self.depth == -1:
            after = torch.arange(longest, device=device) >= depth
            drawn = {**drawn, "operation": torch.where(after, PLACES["Identity"], drawn["operation"])}
        own = dirichlet(len(batch), 2, self.alpha, generator)
        chains = dirichlet(len(batch), self.width, self.alpha, generator)
        return {**drawn, "weights": torch.cat([own[:, :1], own[:, 1:] * chains], 1)}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        # (B, width, depth) -> (depth, width * B): the chains of all images take their steps together.
        steps = [parameters[key].permute(2, 1, 0).flatten(1) for key in ("operation", "magnitude")]
        among = tuple(scale.name for scale in operations(0, self.all_ops))
        chains = images.repeat(self.width, 1, 1, 1)
        for operation, magnitude in zip(*steps, strict=True):
            chains = perform(chains, operation, magnitude, among=among, interpolation=self.interpolation)
        return mix([images, *chains.chunk(self.width)], parameters["weights"])


def mix(parts: list[Tensor], weights: Tensor) -> Tensor:
    """The rounded sum of uint8 (B, C, H, W) `parts` with `weights` (B, len(parts))."""
    total = torch.zeros_like(parts[0], dtype=torch.float32)
    for part, weight in zip(parts, weights.T, strict=True):
        total.addcmul_(part.float(), weight[:, None, None, None])
    return total.round_().clamp_(0, 255).to(torch.uint8)


def dirichlet(count: int, size: int, alpha: float, generator: Generator) -> Tensor:
    """float32 (count, size), each row from Dirichlet(alpha, ..., alpha), on the generator's device.

    Gamma variates over their sum. They are drawn directly, since torch's distributions take no generator.
    """
    concentration = torch.full((count, size), alpha, device=generator.device)
    gamma = torch._standard_gamma(concentration, generator=generator)
    return gamma / gamma.sum(1, keepdim=True)
