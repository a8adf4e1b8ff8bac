"""What acts inside the blocks of a residual network in training only: dropout, live, and stochastic depth.

Shapes   features float (N, C, H, W) of any float dtype and memory format come out as they went in.
Source   Dropout: Srivastava et al. (2014); between the convolutions of a block: Zagoruyko and Komodakis (2016). Stochastic
         depth: Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382), here per image and divided by the
         survival probability in training, so that evaluation needs no factor; torchvision's `StochasticDepth` in "row"
         mode draws the same (0.28, to the bit). The factor is rounded to the dtype of the features: up to 0.4 % in bf16.
Rule     with a share r at the last of L blocks, block i = 0 .. L - 1 drops its branch with probability r i / (L - 1). The
         paper starts at r / L instead of 0.
Random   drawn from the default generator of the features' device; nothing is drawn in evaluation or at a share of 0. On a CPU
         `BlockDropout` draws 16 random bits for each value, with numpy's SFC64 from a seed that torch's generator gives: a mask of
         bf16 takes 0.5 ns a value; its share is then a multiple of 1/65536.
Values   dropout 0 or 0.3 (WideResNet); stochastic depth 0.5 (the paper, ResNet-110) or 0.05 (ResNet-50, arXiv 2110.00476).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.errors import UsageError

DropoutPosition = Literal["between", "after"]

# The fields of the settings that several networks share.
BlockDropoutField = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Share of the activations dropped in every block, in training only; where, says `dropout_position`.",
    ),
]
DropoutPositionField = Annotated[
    DropoutPosition,
    Field(
        description="Where the dropout of a block stands: `between` (on what enters its last convolution) or "
        "`after` (on what its branch gives, before the sum); without effect while dropout is 0."
    ),
]
HeadDropoutField = Annotated[
    float,
    Field(ge=0, lt=1, description="Share of the pooled features dropped before the classifier, in training only."),
]
StochasticDepthField = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Share of the images for which the last block is only its shortcut, in training only; "
        "falls linearly to 0 at the first block.",
    ),
]


_STEPS = 1 << 16  # of the shares that 16 random bits can tell apart


class BlockDropout(nn.Dropout):
    """Dropout inside a block: what `set_dropout` sets, unlike the dropout before a classifier."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) of any float dtype -> the same shape: values zero with probability `p`, the others divided by 1 - p."""
        dropped = round(self.p * _STEPS)
        # A compiler makes its own masks; what is rounded to no or to every value is left to torch.
        usual = x.device.type != "cpu" or torch.compiler.is_compiling() or dropped in (0, _STEPS)
        if usual or not self.training:
            return super().forward(x)
        return x * _mask(x, dropped)


def _mask(x: Tensor, dropped: int) -> Tensor:
    """Zeros with probability dropped / 65536, else what keeps the expected value: like x, in the order of its memory."""
    count = x.numel()
    seed = int(torch.empty((), dtype=torch.int64, device=x.device).random_())
    # numpy draws whole words in half the time that torch takes; its raw words are the same in every version.
    words = np.random.SFC64(seed).random_raw((count + 3) // 4)
    patterns = torch.from_numpy(words.view(np.int16))[:count]
    # As signed numbers the 65536 patterns run from -32768 on. In place, because what gives bool is not vectorised.
    kept = patterns.ge_(dropped - _STEPS // 2)
    scale = torch.tensor(_STEPS / (_STEPS - dropped), dtype=x.dtype, device=x.device)
    # Of numbers of 16 bits the bits are multiplied by 0 or 1; others take a copy.
    flat = (
        kept.mul_(int(scale.view(torch.int16))).view(x.dtype) if x.dtype.itemsize == 2 else kept.to(x.dtype).mul_(scale)
    )
    return flat.as_strided(x.shape, torch.empty_like(x.detach()).stride())


class StochasticDepth(nn.Dropout):
    """Drop the whole branch of an image with probability `p`, and divide the branches that stay by 1 - p.

    A kind of `nn.Dropout`, so that whatever switches dropout off by its `p` reaches it too.
    """

    def forward(self, branch: Tensor) -> Tensor:
        """(N, ...) -> the same shape: each of the N entries is zero or 1 / (1 - p) times what it was."""
        if not self.training or self.p == 0:
            return branch
        survival = 1 - self.p
        kept = branch.new_empty((len(branch),) + (1,) * (branch.ndim - 1)).bernoulli_(survival)
        return branch * kept.div_(survival)


@dataclass(frozen=True)
class BranchNoise:
    """What acts on the branch of one block; in a whole network, `stochastic_depth` is the share at its last block."""

    dropout: float = 0.0
    dropout_position: DropoutPosition = "between"
    stochastic_depth: float = 0.0

    def over(self, *depths: int) -> list[list["BranchNoise"]]:
        """For every stage of `depths` blocks, the noise of each of its blocks, by the linear rule."""
        last = sum(depths) - 1
        rates = iter([self.stochastic_depth * block / max(last, 1) for block in range(last + 1)])
        return [[replace(self, stochastic_depth=next(rates)) for _ in range(depth)] for depth in depths]


class NoisyBlock(nn.Module):
    """The part of a residual block that acts in training only. Its modules are always there, so that `p` can change."""

    def __init__(self, noise: BranchNoise) -> None:
        super().__init__()
        self.dropout = BlockDropout(noise.dropout)
        self.dropout_position = noise.dropout_position
        self.stochastic_depth = StochasticDepth(noise.stochastic_depth)

    def before_last_convolution(self, x: Tensor) -> Tensor:
        """Dropout at `between`."""
        return self.dropout(x) if self.dropout_position == "between" else x

    def before_sum(self, branch: Tensor) -> Tensor:
        """Dropout at `after`, then stochastic depth."""
        if self.dropout_position == "after":
            branch = self.dropout(branch)
        return self.stochastic_depth(branch)


def has_block_dropout(model: nn.Module) -> bool:
    """Whether the network has blocks whose dropout can be set, at whatever share it stands now."""
    return any(isinstance(module, BlockDropout) for module in model.modules())


def set_dropout(model: nn.Module, share: float) -> None:
    """Set the dropout of every block to `share`, 0 <= share < 1, in place; that of the classifier stays.

    The state_dict, the modules and the mode stay as they are. A network without block dropout takes 0 only.
    """
    if not 0 <= share < 1:
        raise UsageError(f"dropout={share}: a share of activations lies in 0 <= dropout < 1")
    if share > 0 and not has_block_dropout(model):
        raise UsageError(
            f"dropout={share}: {type(model).__name__} has no blocks with dropout",
            hint="leave dropout out, or choose a ResNet, PreActResNet or WideResNet",
        )
    for module in model.modules():
        if isinstance(module, BlockDropout):
            module.p = share
