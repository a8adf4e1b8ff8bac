"""CutMix: a box of each image is replaced by the same box of another one, and the labels are mixed by area.

Shapes   images (B, 3, R, R), any dtype -> the same; `box` int64 (B, 4): (y0, y1, x0, x1) in px, the ends exclusive.
Source   S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (arXiv
         1905.04899): lambda from Beta(alpha, alpha), a box with sides of sqrt(1 - lambda) of the image's, its centre anywhere,
         cut at the border. The weight of the label is the share of the pixels that are left, counted after cutting: a box at
         the border is smaller than the one that was drawn.
Values   alpha 1.0: half of the batches on CIFAR (clean 0.5), all on ImageNet. Others measured at CIFAR-100, ResNet-18, 200
         epochs, alpha 0.2: 79.5% against 76.4% without; at ImageNet, ResNet-50: +0.3 points in 100 epochs, +1.3 in 300.
Cost     one gather, one mask and one copy of the batch.
Hurts    short runs and small networks; robustness: at CIFAR-100-C (WRN-28-10) it was the best of four methods on clean
         images and the worst on corrupted ones. Also where the class is told by a detail that the box can cover.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from groundup.augment.mixing.base import Alpha, Drawn, Weight, symmetric_beta
from groundup.basis.settings import Settings


class CutMixSettings(Settings):
    """Paste a box of another image of the batch into each image, and mix the labels by area."""

    pastes: ClassVar[bool] = True

    name: Literal["cutmix"] = Field(description="Paste a box of another image into each image.")
    alpha: Alpha = Field(1.0, gt=0, description="Of Beta(alpha, alpha), which lambda is drawn from; 1 is uniform.")
    weight: Weight = Field(1.0, gt=0, description="Share among the methods, relative to the weights of the others.")

    def draw(self, count: int, size: int, generator: torch.Generator) -> Drawn:
        """See `MixMethod`; `lam` is the one of the box, not the one that the box was drawn for."""
        asked = symmetric_beta(self.alpha, count, generator)
        box = boxes(asked, torch.randint(0, size, (2, count), generator=generator), size)
        return Drawn(share_left(box, size), box)


def boxes(lam: Tensor, centre: Tensor, size: int) -> Tensor:
    """Boxes with sides of sqrt(1 - `lam`) of `size`, rounded to px, around `centre` (int64 (2, N): y, x), cut at the border."""
    side = (size * (1 - lam).sqrt()).round().long()
    start = centre - side // 2
    first, last = start.clamp(min=0), (start + side).clamp(max=size)
    return torch.stack([first[0], last[0], first[1], last[1]], dim=1)


def share_left(box: Tensor, size: int) -> Tensor:
    """The share of the pixels outside each box: float64 (N,), exact."""
    y0, y1, x0, x1 = box.unbind(1)
    return 1 - ((y1 - y0) * (x1 - x0)).double() / size**2


def cutmix(images: Tensor, partners: Tensor, box: Tensor) -> Tensor:
    """`images`, with each box replaced by that of the partner."""
    y0, y1, x0, x1 = (edge[:, None] for edge in box.unbind(1))
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    inside = ((rows >= y0) & (rows < y1))[:, None, :, None] & ((columns >= x0) & (columns < x1))[:, None, None, :]
    return torch.where(inside, partners, images)
