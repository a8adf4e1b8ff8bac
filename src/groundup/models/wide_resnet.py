"""WideResNet (WRN-depth-width): few, wide pre-activation blocks in three stages, with dropout in the blocks.

Shapes   images float (N, 3, H, W), normalised, any H, W >= 1 -> logits float (N, num_classes).
         The stem is 3x3 with stride 1; the side of the last feature map is ceil(side / 4).
Source   Zagoruyko and Komodakis, "Wide Residual Networks" (2016): depth 6n + 4, stages of 16, 32 and 64 times `width`
         channels, dropout after the second norm and ReLU of a block (`dropout_position: between`). As in the authors'
         code: He initialisation (fan_out), norms 1 and 0, and in the classifier torch's default weight and a zero
         bias. Stochastic depth and the other place of dropout: see regularization.py.
Values   WRN-28-10: 36,536,884 parameters with 100 classes; dropout 0 or 0.3.
Cost     WRN-28-10: 10.49 GFLOP for the forward pass of one image at 32 px; WRN-16-4: 0.79 (2,772,020 parameters).
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
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


class WideResNet(nn.Module):
    """3x3 stem with 16 channels, three stages of (depth - 4) / 6 blocks, norm, ReLU, mean, linear classifier."""

    def __init__(
        self, num_classes: int, *, depth: int, width: int, noise: BranchNoise, head_dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        assert blocks >= 1
        assert depth == 6 * blocks + 4, "the settings refuse other depths"
        channels = 16 * width
        first, second, third = noise.over(blocks, blocks, blocks)
        self.conv1 = conv3x3(3, 16)
        self.layer1 = _stage(16, channels, 1, first)
        self.layer2 = _stage(channels, 2 * channels, 2, second)
        self.layer3 = _stage(2 * channels, 4 * channels, 2, third)
        self.bn = nn.BatchNorm2d(4 * channels)
        self.head_dropout = nn.Dropout(head_dropout)
        self.fc = nn.Linear(4 * channels, num_classes)
        initialize_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.head_dropout(F.relu(self.bn(x), inplace=True).mean((2, 3))))


def _stage(in_channels: int, channels: int, stride: int, noise: list[BranchNoise]) -> nn.Sequential:
    """One block for each entry of `noise`, the first with `stride`."""
    later = [PreActBlock(channels, channels, 1, noise=other) for other in noise[1:]]
    return nn.Sequential(PreActBlock(in_channels, channels, stride, noise=noise[0]), *later)


class WideResNetSettings(Settings):
    """WideResNet, for images of about 32 px; WRN-28-10 by default."""

    name: Literal["wide_resnet"] = Field(description="WideResNet (WRN-depth-width).")
    depth: int = Field(28, ge=10, le=1000, description="Depth in layers, 6n + 4: 10, 16, 22, 28, 34, 40, ...")
    width: int = Field(10, ge=1, le=64, description="The stages have 16, 32 and 64 times as many channels.")
    dropout: BlockDropoutField = 0.0
    dropout_position: DropoutPositionField = "between"
    head_dropout: HeadDropoutField = 0.0
    stochastic_depth: StochasticDepthField = 0.0

    @field_validator("depth")
    @classmethod
    def _has_whole_blocks(cls, depth: int) -> int:
        if (depth - 4) % 6:
            below = depth - (depth - 4) % 6
            raise ValueError(
                f"a WideResNet has 6n + 4 layers; the depths nearest to {depth} are {below} and {below + 6}"
            )
        return depth

    @property
    def smallest_image(self) -> int:
        """Smallest side in pixels that the network can take."""
        return 1

    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights from the global generator; `build_model` makes them a function of a seed."""
        return WideResNet(
            num_classes,
            depth=self.depth,
            width=self.width,
            noise=BranchNoise(self.dropout, self.dropout_position, self.stochastic_depth),
            head_dropout=self.head_dropout,
        )
