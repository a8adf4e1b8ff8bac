"""ResNet-18, -34 and -50: residual networks with the activation after the sum.

Shapes   images float (N, 3, H, W), normalised, any H, W >= 1 -> logits float (N, num_classes).
         Side of the last feature map: ceil(side / 8) with the `small` stem, ceil(side / 32) with the other two.
Source   He et al., "Deep Residual Learning for Image Recognition" (2015); stride on the 3x3 of the bottleneck as in
         "ResNet v1.5"; `zero_init_residual` from Goyal et al. (2017). He initialisation (fan_out), norms 1 and 0,
         torch's default in the classifier. Names and shapes in the state_dict are torchvision's: its checkpoints load
         (`stem: imagenet`, `width: 64`, 1000 classes); outputs, gradients and initial weights then equal torchvision's
         bit for bit (0.29 with torch 2.14 on a CPU).
Changed  the `small` stem (3x3, stride 1, no pooling), as usual for images of 32 px.
Options  ResNet-D (He et al., "Bag of Tricks", arXiv 1812.01187) is `stem: deep` with `shortcut: pool`: the stem's 3x3
         convolutions have width / 2, width / 2 and width channels, the first with stride 2, then max-pooling; shortcuts
         average 2x2 pixels before a 1x1 of stride 1. Names, shapes and outputs are timm's resnet18d, 34d and 50d (equal
         to the bit in training mode with timm 1.0.31 on torch 2.13). `blur_pool`: see blocks.py; of the stem's
         convolutions none is blurred, max-pooling neither. Dropout and stochastic depth: see regularization.py; in a
         bottleneck `between` is before its last 1x1, `after` is after the norm that ends the branch.
Values   Parameters at width 64: 11,220,132 (18), 21,328,292 (34), 23,705,252 (50) with 100 classes and the small stem;
         25,557,032 (50) with 1000 classes and the imagenet stem, 25,576,264 as ResNet-50-D.
Cost     Forward pass of one image: 1.11 GFLOP (18), 2.32 (34) and 2.60 (50) at 32 px with the small stem; 8.18 (50) at
         224 px with the imagenet stem, 8.22 with `blur_pool`, 8.66 as ResNet-50-D.
Hurts    a stem other than `small` on 32 px: it leaves a last map of one pixel and costs many points of accuracy, silently.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.settings import Settings
from groundup.models.blocks import conv1x1, conv3x3, initialize_convolutions
from groundup.models.regularization import (
    BlockDropoutField,
    BranchNoise,
    DropoutPositionField,
    HeadDropoutField,
    NoisyBlock,
    StochasticDepthField,
)

Stem = Literal["small", "imagenet", "deep"]
Shortcut = Literal["conv", "pool"]


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a ResNet share: the shortcut where the shape changes, and the blur before strided convolutions."""

    shortcut: Shortcut = "conv"
    blur: bool = False

    def projection(self, in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
        """The shortcut where the shape changes; None where the input passes as it is."""
        if stride == 1 and in_channels == out_channels:
            return None
        norm = nn.BatchNorm2d(out_channels)
        if self.shortcut == "conv":
            return nn.Sequential(conv1x1(in_channels, out_channels, stride, blur=self.blur), norm)
        # Windows of an odd side's last row or column hold fewer pixels and average those: ceil(side / 2), as elsewhere.
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        return nn.Sequential(pool, conv1x1(in_channels, out_channels), norm)


class BasicBlock(NoisyBlock):
    """Two 3x3 convolutions and the shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, style: BlockStyle, noise: BranchNoise) -> None:
        super().__init__(noise)
        self.conv1 = conv3x3(in_channels, channels, stride, blur=style.blur)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = style.projection(in_channels, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm at the end of the branch."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(self.before_last_convolution(out)))
        return F.relu(self.before_sum(out) + shortcut, inplace=True)


class Bottleneck(NoisyBlock):
    """1x1 down, 3x3 (with the stride), 1x1 up to four times the channels, and the shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, style: BlockStyle, noise: BranchNoise) -> None:
        super().__init__(noise)
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride, blur=style.blur)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = style.projection(in_channels, out_channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm at the end of the branch."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 x channels, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(self.before_last_convolution(out)))
        return F.relu(self.before_sum(out) + shortcut, inplace=True)


Block = type[BasicBlock] | type[Bottleneck]
_ARCHITECTURES: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """Stem, four stages of `depths` blocks with 1, 2, 4 and 8 times `width` channels, mean, linear classifier."""

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int,
        *,
        stem: Stem = "small",
        width: int = 64,
        zero_init_residual: bool = False,
        style: BlockStyle,
        noise: BranchNoise,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = _stem(stem, width)
        self.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        channels = [width * 2**stage for stage in range(4)]
        inputs = [width] + [c * block.expansion for c in channels[:3]]
        noises = noise.over(*depths)
        self.layer1 = _stage(block, inputs[0], channels[0], 1, style, noises[0])
        self.layer2 = _stage(block, inputs[1], channels[1], 2, style, noises[1])
        self.layer3 = _stage(block, inputs[2], channels[2], 2, style, noises[2])
        self.layer4 = _stage(block, inputs[3], channels[3], 2, style, noises[3])
        self.head_dropout = nn.Dropout(head_dropout)
        self.fc = nn.Linear(channels[3] * block.expansion, num_classes)
        initialize_convolutions(self)
        if zero_init_residual:
            self._silence_branches()

    def _silence_branches(self) -> None:
        """Let every block start as its shortcut: weight 0 in the norm before the sum."""
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.head_dropout(x.mean((2, 3))))


def _stem(stem: Stem, width: int) -> nn.Module:
    """The convolutions before the first norm: (N, 3, H, W) -> (N, width, H, W), or half the side but for `small`."""
    if stem == "small":
        return conv3x3(3, width)
    if stem == "imagenet":
        return nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    half = width // 2
    first = [conv3x3(3, half, 2), nn.BatchNorm2d(half), nn.ReLU(inplace=True)]
    second = [conv3x3(half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *second, conv3x3(half, width))


def _stage(
    block: Block, in_channels: int, channels: int, stride: int, style: BlockStyle, noise: list[BranchNoise]
) -> nn.Sequential:
    """One block for each entry of `noise`, the first with `stride`."""
    first = block(in_channels, channels, stride, style, noise[0])
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1, style, other) for other in noise[1:]))


class ResNetSettings(Settings):
    """ResNet-18, ResNet-34 or ResNet-50."""

    name: Literal["resnet18", "resnet34", "resnet50"] = Field(
        description="Which ResNet: the number is its depth in layers."
    )
    stem: Stem = Field(
        "small",
        description="First layers: `small` (3x3, stride 1, no pooling; images up to about 64 px), "
        "`imagenet` (7x7, stride 2, then max-pooling; larger images) or "
        "`deep` (three 3x3, the first with stride 2, then max-pooling; larger images, ResNet-D).",
    )
    shortcut: Shortcut = Field(
        "conv",
        description="Shortcut where the shape changes: `conv` (1x1 with the stride) or "
        "`pool` (2x2 mean with the stride, then 1x1; ResNet-D).",
    )
    blur_pool: bool = Field(
        False,
        description="Blur the input of every strided convolution of 16 channels or more by a fixed 3x3 filter.",
    )
    # torch 2.13 corrupts memory in the backward of a 1x1 stride-2 convolution of 2 or 4 channels (CPU, channels-last).
    width: int = Field(
        64,
        ge=8,
        le=1024,
        description="Channels of the first stage, 8 or more; the later ones have 2, 4 and 8 times as many.",
    )
    zero_init_residual: bool = Field(
        False, description="Start every block as its shortcut, by weight 0 in its last norm; helps with large batches."
    )
    dropout: BlockDropoutField = 0.0
    dropout_position: DropoutPositionField = "between"
    head_dropout: HeadDropoutField = 0.0
    stochastic_depth: StochasticDepthField = 0.0

    @property
    def smallest_image(self) -> int:
        """Smallest side in pixels that the network can take."""
        return 1

    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights from the global generator; `build_model` makes them a function of a seed."""
        block, depths = _ARCHITECTURES[self.name]
        return ResNet(
            block,
            depths,
            num_classes,
            stem=self.stem,
            width=self.width,
            zero_init_residual=self.zero_init_residual,
            style=BlockStyle(self.shortcut, self.blur_pool),
            noise=BranchNoise(self.dropout, self.dropout_position, self.stochastic_depth),
            head_dropout=self.head_dropout,
        )
