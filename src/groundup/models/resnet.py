"""ResNet-18, -34 and -50: residual networks with the activation after the sum.

Shapes   images float (N, 3, H, W), normalised, any H, W >= 1 -> logits float (N, num_classes).
         Side of the last feature map: ceil(side / 8) with the `small` stem, ceil(side / 32) with `imagenet`.
Source   He et al., "Deep Residual Learning for Image Recognition" (2015); stride on the 3x3 of the bottleneck as in
         "ResNet v1.5"; `zero_init_residual` from Goyal et al. (2017). He initialisation (fan_out), norms 1 and 0,
         torch's default in the classifier. Names and shapes in the state_dict are torchvision's: its checkpoints load
         (`stem: imagenet`, `width: 64`, 1000 classes); outputs, gradients and initial weights then equal torchvision's
         bit for bit (0.29 with torch 2.14 on a CPU).
Changed  the `small` stem (3x3, stride 1, no pooling), as usual for images of 32 px.
Values   Parameters at width 64: 11,220,132 (18), 21,328,292 (34), 23,705,252 (50) with 100 classes and the small stem;
         25,557,032 (50) with 1000 classes and the imagenet stem.
Cost     Forward pass of one image: 1.11 GFLOP (18), 2.32 (34) and 2.60 (50) at 32 px with the small stem; 8.18 (50) at
         224 px with the imagenet stem.
Hurts    the imagenet stem on 32 px: it leaves a last map of one pixel and costs many points of accuracy, silently.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.settings import Settings
from groundup.models.blocks import conv1x1, conv3x3, initialize_convolutions

Stem = Literal["small", "imagenet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm just before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (with the stride), 1x1 up to four times the channels, and the shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm just before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 x channels, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + shortcut, inplace=True)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut where the shape changes: 1x1 convolution and norm; None where the input passes as it is."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


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
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(3, width)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        channels = [width * 2**stage for stage in range(4)]
        inputs = [width] + [c * block.expansion for c in channels[:3]]
        self.layer1 = _stage(block, inputs[0], channels[0], depths[0], stride=1)
        self.layer2 = _stage(block, inputs[1], channels[1], depths[1], stride=2)
        self.layer3 = _stage(block, inputs[2], channels[2], depths[2], stride=2)
        self.layer4 = _stage(block, inputs[3], channels[3], depths[3], stride=2)
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
        return self.fc(x.mean((2, 3)))


def _stage(block: Block, in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks, the first with `stride`."""
    later = [block(channels * block.expansion, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(in_channels, channels, stride), *later)


class ResNetSettings(Settings):
    """ResNet-18, ResNet-34 or ResNet-50."""

    name: Literal["resnet18", "resnet34", "resnet50"] = Field(
        description="Which ResNet: the number is its depth in layers."
    )
    stem: Stem = Field(
        "small",
        description="First layers: `small` (3x3, stride 1, no pooling; images up to about 64 px) or "
        "`imagenet` (7x7, stride 2, then max-pooling; larger images).",
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
        )
