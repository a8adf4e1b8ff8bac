"""PreActResNet-18: norm and ReLU before each convolution, so that the shortcuts stay free of both.

Shapes   images float (N, 3, H, W), normalised, any H, W >= 1 -> logits float (N, num_classes).
         The stem is 3x3 with stride 1; the side of the last feature map is ceil(side / 8).
Source   He et al., "Identity Mappings in Deep Residual Networks" (2016). As in the paper, the first block's shortcut
         starts after its first norm and ReLU, and the last block is followed by a norm and ReLU (`final_norm`). Shortcuts
         that change the shape are plain 1x1 convolutions. He initialisation (fan_out), norms 1 and 0, and in the
         classifier torch's default weight and a zero bias. Dropout and stochastic depth: see regularization.py.
Values   11,218,340 parameters with 100 classes at width 64; 11,217,316 without the last norm. All options 0 by default.
Cost     as ResNet-18 with the small stem: 1.11 GFLOP for the forward pass of one image at 32 px.
Hurts    `final_norm: false`, seen in some implementations: the sums of the last stage reach the classifier unscaled.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.settings import Settings
from groundup.models.blocks import PreActBlock, conv3x3, initialize_convolutions
from groundup.models.regularization import (
    BlockDropoutField,
    BranchNoise,
    DropoutPositionField,
    HeadDropoutField,
    StochasticDepthField,
)


class PreActResNet(nn.Module):
    """3x3 stem, four stages of two pre-activation blocks, norm, ReLU, mean over the plane, linear classifier."""

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 64,
        final_norm: bool = True,
        noise: BranchNoise,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        first, second, third, fourth = noise.over(2, 2, 2, 2)
        self.conv1 = conv3x3(3, width)
        self.layer1 = _stage(width, width, 1, first, activate_shortcut=True)
        self.layer2 = _stage(width, 2 * width, 2, second)
        self.layer3 = _stage(2 * width, 4 * width, 2, third)
        self.layer4 = _stage(4 * width, 8 * width, 2, fourth)
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.head_dropout = nn.Dropout(head_dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        initialize_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            x = F.relu(self.bn(x), inplace=True)
        return self.fc(self.head_dropout(x.mean((2, 3))))


def _stage(
    in_channels: int, channels: int, stride: int, noise: list[BranchNoise], activate_shortcut: bool = False
) -> nn.Sequential:
    """One block for each entry of `noise`, the first with `stride`."""
    first = PreActBlock(in_channels, channels, stride, noise=noise[0], activate_shortcut=activate_shortcut)
    return nn.Sequential(first, *(PreActBlock(channels, channels, 1, noise=other) for other in noise[1:]))


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
    final_norm: bool = Field(
        True, description="Norm and ReLU after the last block, as in the paper; false pools its raw sums."
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
        return PreActResNet(
            num_classes,
            width=self.width,
            final_norm=self.final_norm,
            noise=BranchNoise(self.dropout, self.dropout_position, self.stochastic_depth),
            head_dropout=self.head_dropout,
        )
