"""PreActResNet-18: norm and ReLU before each convolution, so that the shortcuts stay free of both.

Shapes   images float (N, 3, H, W), normalised, any H, W >= 1 -> logits float (N, num_classes).
         The stem is 3x3 with stride 1; the side of the last feature map is ceil(side / 8).
Source   He et al., "Identity Mappings in Deep Residual Networks" (2016). As in the paper, the first block's shortcut
         starts after its first norm and ReLU, and the last block is followed by a norm and ReLU (often left out
         elsewhere: the sums of the last stage then reach the classifier unscaled). Shortcuts that change the shape are
         plain 1x1 convolutions. He initialisation (fan_out), norms 1 and 0, and in the classifier torch's default
         weight and a zero bias.
Values   11,218,340 parameters with 100 classes at width 64.
Cost     as ResNet-18 with the small stem: 1.11 GFLOP for the forward pass of one image at 32 px.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.settings import Settings
from groundup.models.blocks import PreActBlock, conv3x3, initialize_convolutions


class PreActResNet(nn.Module):
    """3x3 stem, four stages of two pre-activation blocks, norm, ReLU, mean over the plane, linear classifier."""

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.layer1 = _stage(width, width, stride=1, activate_shortcut=True)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.bn = nn.BatchNorm2d(8 * width)
        self.fc = nn.Linear(8 * width, num_classes)
        initialize_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.fc(F.relu(self.bn(x), inplace=True).mean((2, 3)))


def _stage(in_channels: int, channels: int, stride: int, activate_shortcut: bool = False) -> nn.Sequential:
    """Two blocks, the first with `stride`."""
    first = PreActBlock(in_channels, channels, stride, activate_shortcut=activate_shortcut)
    return nn.Sequential(first, PreActBlock(channels, channels, 1))


class PreActResNetSettings(Settings):
    """PreActResNet-18, for images of about 32 px."""

    name: Literal["preact_resnet18"] = Field(description="PreActResNet-18.")
    # torch 2.13 corrupts memory in the backward of a 1x1 stride-2 convolution of 2 or 4 channels (CPU, channels-last).
    width: int = Field(
        64,
        ge=8,
        le=1024,
        description="Channels of the first stage, 8 or more; the later ones have 2, 4 and 8 times as many.",
    )

    @property
    def smallest_image(self) -> int:
        """Smallest side in pixels that the network can take."""
        return 1

    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights from the global generator; `build_model` makes them a function of a seed."""
        return PreActResNet(num_classes, width=self.width)
