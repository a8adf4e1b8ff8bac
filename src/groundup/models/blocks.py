"""What the residual networks share: the pre-activation block and the initialisation of convolutions.

Shapes   features are float (N, C, H, W) and may be channels-last; a stride of 2 turns a side s into ceil(s / 2), so
         that a side never falls below 1.
Source   He et al., "Identity Mappings in Deep Residual Networks" (2016), and "Delving Deep into Rectifiers" (2015) for
         the initialisation; Zagoruyko and Komodakis, "Wide Residual Networks" (2016), for the place of dropout.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the side at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def initialize_convolutions(model: nn.Module) -> None:
    """He normal initialisation of every convolution, standard deviation sqrt(2 / (out_channels x kernel area)).

    Norms (weight 1, bias 0) and linear layers keep what torch gives them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PreActBlock(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, dropout, 3x3, added to the shortcut; nothing after the sum.

    The shortcut is the identity, or a plain 1x1 convolution where channels or stride change. `activate_shortcut`: it
    starts after the first norm and ReLU (True) or from the raw input (False); a convolution always starts after them.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, dropout: float = 0.0, activate_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = conv1x1(in_channels, out_channels, stride) if changes_shape else nn.Identity()
        self.activate_shortcut = activate_shortcut or changes_shape

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        activated = F.relu(self.bn1(x), inplace=True)
        shortcut = self.shortcut(activated if self.activate_shortcut else x)
        out = self.dropout(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        return self.conv2(out) + shortcut
