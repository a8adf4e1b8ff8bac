"""What the residual networks share: convolutions, their initialisation, the fixed blur, the pre-activation block.

Shapes   features are float (N, C, H, W) and may be channels-last; a stride of 2 turns a side s into ceil(s / 2), so
         that a side never falls below 1.
Source   He et al., "Identity Mappings in Deep Residual Networks" (2016), and "Delving Deep into Rectifiers" (2015) for
         the initialisation; Zagoruyko and Komodakis, "Wide Residual Networks" (2016), for the place of dropout; Zhang,
         "Making Convolutional Networks Shift-Invariant Again" (arXiv 1904.11486), for the blur.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models.convolution import Convolution
from groundup.models.regularization import BranchNoise, NoisyBlock

_FEWEST_BLURRED_CHANNELS = 16


class BlurredConv2d(Convolution):
    """A strided convolution whose input is first blurred, each channel on its own, against aliasing.

    The blur is the 3x3 filter [1, 2, 1] x [1, 2, 1] / 16 at stride 1, zeros beyond the border, then the convolution with its
    stride: the order of FFCV's ResNets. The paper instead runs the convolution and its ReLU at stride 1, four times the
    work, and blurs and strides after them. The filter is not trained and not in the state_dict, whose names stay those of
    a plain convolution.
    """

    blur: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding)
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur", torch.outer(line, line).repeat(in_channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return super().forward(F.conv2d(x, self.blur, padding=1, groups=self.in_channels))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, *, blur: bool = False) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the side at stride 1. `blur`: see `BlurredConv2d`."""
    return _convolution(in_channels, out_channels, 3, stride, blur)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, *, blur: bool = False) -> nn.Conv2d:
    """A 1x1 convolution without bias. `blur`: see `BlurredConv2d`."""
    return _convolution(in_channels, out_channels, 1, stride, blur)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, blur: bool) -> nn.Conv2d:
    """Blurred where `blur` asks for it and the stride drops pixels of 16 channels or more; else plain."""
    if blur and stride > 1 and in_channels >= _FEWEST_BLURRED_CHANNELS:
        return BlurredConv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
    return Convolution(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)


def initialize_convolutions(model: nn.Module) -> None:
    """He normal initialisation of every convolution, standard deviation sqrt(2 / (out_channels x kernel area)).

    Norms (weight 1, bias 0) and linear layers keep what torch gives them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PreActBlock(NoisyBlock):
    """Norm, ReLU, 3x3, norm, ReLU, 3x3, added to the shortcut; nothing after the sum. For dropout see `NoisyBlock`.

    The shortcut is the identity, or a plain 1x1 convolution where channels or stride change. `activate_shortcut`: it
    starts after the first norm and ReLU (True) or from the raw input (False); a convolution always starts after them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        noise: BranchNoise,
        activate_shortcut: bool = False,
    ) -> None:
        super().__init__(noise)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = conv1x1(in_channels, out_channels, stride) if changes_shape else nn.Identity()
        self.activate_shortcut = activate_shortcut or changes_shape

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        activated = F.relu(self.bn1(x), inplace=True)
        shortcut = self.shortcut(activated if self.activate_shortcut else x)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        return self.before_sum(self.conv2(self.before_last_convolution(out))) + shortcut
