"""Test-time augmentation: what the network says about several views of one image, averaged.

A member of `TTA` takes (model, images (B, C, H, W)) and gives logits (B, classes). Views are averaged as logits, not as
probabilities, as the CIFAR speed records do (K. Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024), so
numbers compare with theirs. Cost: `TTA_COST`, forward passes per image. Mirrors hurt where left and right mean something
(digits, text), crops where the object fills the image. A number read with test-time augmentation is always labelled with
its name, and compared with numbers of the same cost.

    none             1  the image
    flip             2  the image and its mirror image
    translate        3  the image (weight 1/2) and its shifts up-left and down-right (1/4 each), no mirrors
    flip_translate   6  `translate` of the image and of its mirror image: the speed records' own
    multi_crop      10  four corners and centre at 7/8 of the side, resized back, and their mirrors (A. Krizhevsky et al.,
                        ImageNet classification with deep convolutional neural networks, 2012, took 224 of 256 px too)

A shift is by 1/32 of the shorter side, at least 1 px (1 at 32 px, 2 at 64 px), with the image mirrored at its border.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Tensor]


def none(model: nn.Module, images: Tensor) -> Tensor:
    """The image as it is."""
    return model(images)


def flip(model: nn.Module, images: Tensor) -> Tensor:
    """The mean of the logits of the image and of its mirror image, in float32."""
    return (model(images).float() + model(images.flip(3)).float()) / 2


def translate(model: nn.Module, images: Tensor) -> Tensor:
    """Half of the logits of the image, half of the mean over its two diagonal shifts, in float32."""
    return _translated(none, model, images)


def flip_translate(model: nn.Module, images: Tensor) -> Tensor:
    """`translate` with `flip` for each of its views, in float32."""
    return _translated(flip, model, images)


def multi_crop(model: nn.Module, images: Tensor) -> Tensor:
    """The mean of the logits of five crops and their mirror images, in float32."""
    views = [flip(model, view) for view in _crops(images)]
    return torch.stack(views).mean(0)


def _translated(forward: Forward, model: nn.Module, images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    shift = max(1, min(height, width) // 32)
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    shifted = [padded[:, :, start : start + height, start : start + width] for start in (0, 2 * shift)]
    moved = [forward(model, _laid_out_as(images, view)).float() for view in shifted]
    return forward(model, images).float() / 2 + (moved[0] + moved[1]) / 4


def _crops(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    tall, wide = (max(1, round(side * 7 / 8)) for side in (height, width))
    bottom, right = height - tall, width - wide
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
        crop = images[:, :, top : top + tall, left : left + wide]
        resized = F.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
        yield _laid_out_as(images, resized)


def _laid_out_as(images: Tensor, view: Tensor) -> Tensor:
    """`view` with the strides of `images`: a compiled network is not compiled once more for it."""
    return view if view.stride() == images.stride() else torch.empty_like(images).copy_(view)


TTA: dict[str, Forward] = {
    "none": none,
    "flip": flip,
    "translate": translate,
    "flip_translate": flip_translate,
    "multi_crop": multi_crop,
}
# Forward passes per image.
TTA_COST: dict[str, int] = {"none": 1, "flip": 2, "translate": 3, "flip_translate": 6, "multi_crop": 10}
