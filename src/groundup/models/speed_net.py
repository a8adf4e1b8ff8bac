"""`speed_net`: a compact convolutional net that reaches its accuracy for a small part of a ResNet's compute.

A frozen 2x2 convolution whitens the colour patches of the training images; three groups follow, each

    conv (widen) -> 2x2 max-pool -> batch norm -> SiLU,  then  x + SiLU(norm(conv_b(SiLU(norm(conv_a(x))))))

with a narrower middle in the residual pair; the maximum and the mean over the plane feed a linear classifier whose logits
are scaled down. Every convolution begins as the identity on its first channels. What the stem and the identity bring can be
tried: `stem: plain`, `init: default`.

    Shapes   images float (N, 3, S, S), S >= 9, any S from one batch to the next; logits float32 (N, classes).
    Source   The family of the fast CIFAR records: whitening stem and identity ("Dirac") initialisation from D. Page (2018) and
             K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498); the residual pairs, the
             narrow middles, the max + mean head and the default widths from the CIFAR-100 speed records of 2026.
    Values   widths 64/256/768, middles 64/192/512 and 6 to 9 epochs with Muon at 20, then 24, then 32 px on CIFAR-100.
    Cost     0.319 GFLOP a forward pass at 32 px, 0.152 at 24 px, 0.127 at 20 px (defaults, 100 classes); 8.6 M parameters.
             In training on a CPU, uncompiled, 0.269, 0.120 and 0.096: no products with the padding of small planes
             (`same_size_conv`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from groundup.basis.settings import Settings
from groundup.models.regularization import HeadDropoutField
from groundup.models.same_size_conv import PooledConv, SameSizeConv

_WHITENING_KERNEL = 2
_PATCHES_AT_ONCE = 1 << 18
_Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class SpeedNetSettings(Settings):
    """Compact whitening-stem network of the fast CIFAR records."""

    name: Literal["speed_net"] = Field(description="Compact whitening-stem network of the fast CIFAR records.")
    widths: _Triple = Field((64, 256, 768), description="Channels of the three groups.")
    middles: _Triple = Field((64, 192, 512), description="Channels between the two convolutions of each residual pair.")
    first_kernels: _Triple = Field((3, 3, 2), description="Kernel side in px of each group's widening convolution.")
    pair_kernels: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        ((1, 1), (3, 1), (3, 3)), description="Kernel sides in px of the two convolutions of each residual pair."
    )
    logit_scale: float = Field(1.25 / 9, gt=0, description="Factor on the logits.")
    batch_norm_momentum: float = Field(
        0.1, gt=0, le=1, description="Share of the newest batch in the running statistics."
    )
    head_dropout: HeadDropoutField = 0.0
    stem: Literal["whitened", "plain"] = Field(
        "whitened",
        description="whitened: frozen filters that whiten the patches of the training images; plain: random filters, trained.",
    )
    init: Literal["identity", "default"] = Field(
        "identity",
        description="identity: the convolutions of the groups begin as the identity; default: as torch draws them.",
    )

    @model_validator(mode="after")
    def _three_pairs(self) -> "SpeedNetSettings":
        if len(self.pair_kernels) != 3:
            raise ValueError(f"pair_kernels has {len(self.pair_kernels)} entries; there are 3 groups")
        return self

    @property
    def smallest_image(self) -> int:
        """Smallest image side in px that leaves one pixel after the stem and three halvings."""
        return 9

    def build(self, num_classes: int) -> nn.Module:
        """The network, with identity-initialised convolutions and a whitening stem that still has to see images."""
        return SpeedNet(self, num_classes)


class SpeedGroup(nn.Module):
    """Widen, halve the plane, then a residual pair through a narrower middle. (N, C, S, S) -> (N, width, S // 2, S // 2)."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        middle: int,
        first: int,
        pair: tuple[int, int],
        momentum: float,
        identity: bool,
    ) -> None:
        super().__init__()
        self.conv1 = PooledConv(channels_in, width, first, identity)
        self.norm1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = SameSizeConv(width, middle, pair[0], identity)
        self.norm2 = nn.BatchNorm2d(middle, momentum=momentum)
        self.conv3 = SameSizeConv(middle, width, pair[1], identity)
        self.norm3 = nn.BatchNorm2d(width, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.conv1(x)))
        return x + F.silu(self.norm3(self.conv3(F.silu(self.norm2(self.conv2(x))))))


class SpeedNet(nn.Module):
    """See the module. `initialize_from(images)` must be called once with normalised training images before training."""

    def __init__(self, settings: SpeedNetSettings, num_classes: int) -> None:
        super().__init__()
        patch = 3 * _WHITENING_KERNEL**2
        self.whiten = nn.Conv2d(3, 2 * patch, _WHITENING_KERNEL)
        self._whitens = settings.stem == "whitened"
        self.whiten.weight.requires_grad_(not self._whitens)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        channels = [2 * patch, *settings.widths]
        self.groups = nn.Sequential(
            *(
                SpeedGroup(
                    channels[i], width, middle, first, pair, settings.batch_norm_momentum, settings.init == "identity"
                )
                for i, (width, middle, first, pair) in enumerate(
                    zip(settings.widths, settings.middles, settings.first_kernels, settings.pair_kernels, strict=True)
                )
            )
        )
        self.head_dropout = nn.Dropout(settings.head_dropout)
        self.head = nn.Linear(settings.widths[-1], num_classes, bias=False)
        self.logit_scale = settings.logit_scale

    @torch.no_grad()
    def initialize_from(self, images: Tensor) -> None:
        """Set the stem to the whitened directions of 2x2 patches, each with its negative; a plain stem stays as it is.

        `images`: float (N, 3, S, S).
        """
        if self._whitens:
            self.whiten.weight.copy_(whitening_filters(images, _WHITENING_KERNEL))

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(F.silu(self.whiten(x)))
        # max_pool2d over the plane, not amax: the compiled bf16 backward of amax gave NaN on a CPU with torch 2.13.
        # And in training avg_pool2d, not mean, whose gradient would bring the whole last group out of channels-last order.
        mean = F.avg_pool2d(x, x.shape[2:]).flatten(1) if self.training else x.mean((2, 3))
        pooled = F.max_pool2d(x, x.shape[2:]).flatten(1) + mean
        return self.head(self.head_dropout(pooled)).float() * self.logit_scale


def whitening_filters(images: Tensor, kernel: int, epsilon: float = 5e-4) -> Tensor:
    """Filters whose responses to the patches of `images` are uncorrelated with unit variance, largest variance first.

    `images`: float (N, C, S, S), normalised. Returns float32 (2 * C * kernel^2, C, kernel, kernel): the directions, then
    their negatives. `epsilon` keeps directions without variance finite.
    """
    channels = images.shape[1]
    size = channels * kernel**2
    total, products, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    for some in images.split(max(1, _PATCHES_AT_ONCE // (images.shape[2] * images.shape[3]))):
        patches = some.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 2, 3, 1, 4, 5)
        flat = patches.reshape(-1, size).double()
        total, products, count = total + flat.sum(0), products + flat.mT @ flat, count + len(flat)
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    filters = (directions / (variances.clamp(min=0) + epsilon).sqrt()).mT.flip(0)
    # An eigenvector's sign is arbitrary: fix it, so that every machine starts from the same stem.
    signs = torch.sign(filters.gather(1, filters.abs().argmax(1, keepdim=True)))
    filters = (filters * signs).view(-1, channels, kernel, kernel).float()
    return torch.cat([filters, -filters])
