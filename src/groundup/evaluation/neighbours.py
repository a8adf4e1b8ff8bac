"""Test images that (nearly) stand in train: nearest neighbours by features, confirmed by pixels.

Shapes   features floating point (N, D), such as what enters the last layer of a trained network; images uint8 (N, 3, H, W).
Source   B. Barz and J. Denzler, Do we train on test data? Purging CIFAR of near-duplicates, 2020: in feature space they found
         3.3% of CIFAR-10's and 10% of CIFAR-100's test images in train, and confirmed each pair by eye.
Here     the eye is replaced by the pixels. Features find the candidates, since they forgive crops and colours. Of each pair the
         fine details are compared (what a blur takes away), part by part, over shifts, crops and the mirror image: two pictures of
         one kind of thing share their coarse tones, and only a picture and another crop of it share their details.
Values   CIFAR-100's test split against train, by the features of a network of 73.7%: 667 of 10,000 from 0.65 on, 12 of them under
         two labels. Looked at, of pairs found by 8 x 8 pixels: of 40 drawn from 0.65 to 0.75 about 26 are one picture and the
         others a series (cans, chairs, mowers); from 0.60 to 0.65 it is 18 of 40, from 0.55 to 0.60 fewer. The mean difference of
         the pixels, which this replaced, found 83.
Hurts    cans and mowers photographed in one studio are alike and not copies; a sky or a sea has no details, so that a copy of it is
         found only if it is exact; of a crop that leaves less than about two thirds of the area nothing is found, and of one from a
         corner not always. Look at the pairs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError

# How far the details of two images agree, from which on they are near-duplicates.
NEAR_DUPLICATE = 0.65
# px below which images have no fine details: only equal ones are found.
LEAST_SIDE = 16

_SIDE = 32  # px at which images are compared
_WINDOW = 26  # px of one image, from its middle, that are looked for in the other
_ENLARGED = (32, 35, 38, 42)  # px to which the other is brought
_SLACK = 1  # px that a crop may lie outside of the other image
_BLUR = 5  # px: details are what a box of this side takes away
_PARTS = 3  # the window is compared in this many parts squared
_FAINT = 12.0  # squared grey levels of a part's details that count for nothing: about 2 in each colour
_COARSE = 16  # px at which tones are compared
_APART = 2  # of these px, by which they may be shifted
_ALIKE_IN_TONE = 0.6  # correlation of the tones below which the details are not looked at


def nearest(
    features_test: Tensor,
    features_train: Tensor,
    block: int = 2048,
    check: Callable[[], None] | None = None,
    count: int = 1,
) -> tuple[Tensor, Tensor]:
    """For each row of `features_test` (N, D) the `count` most similar rows of `features_train` (M, D), K = min(count, M).

    Returns their indices, int64 (N, K), the most similar first, and the cosine similarities in [-1, 1], float32 (N, K). At most
    `block` rows of each are compared at a time: block * block * 4 bytes, besides a float32 copy of `features_test`. A row of
    zeros is similar to nothing (0). `check` is called between blocks, and may raise to end the search.
    """
    if features_test.ndim != 2 or features_train.ndim != 2 or features_test.shape[1] != features_train.shape[1]:
        raise ValueError(
            f"need features (N, D) and (M, D), got {tuple(features_test.shape)} and {tuple(features_train.shape)}"
        )
    if block < 1 or count < 1:
        raise ValueError(f"block and count must be at least 1, got {block} and {count}")
    if len(features_train) == 0:
        raise GroundupError("there are no train images to compare with", hint="check that the split is not empty")
    wanted = F.normalize(features_test.float(), dim=1)  # (N, D)
    best = torch.full((len(wanted), min(count, len(features_train))), -torch.inf, device=wanted.device)
    index = torch.zeros(best.shape, dtype=torch.int64, device=wanted.device)
    for start in range(0, len(features_train), block):
        compared = F.normalize(features_train[start : start + block].float(), dim=1).T  # (D, block)
        for first in range(0, len(wanted), block):
            if check:
                check()
            rows = slice(first, first + block)
            found = (wanted[rows] @ compared).topk(min(count, compared.shape[1]), dim=1)
            index[rows], best[rows] = closest(
                (index[rows], best[rows]), (found.indices + start, found.values), best.shape[1]
            )
    return index, best.clamp(-1, 1)


def closest(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Of two findings of `nearest` for the same rows the `count` most similar; of equals those of `one`."""
    index, similarity = (torch.cat(both, dim=1) for both in zip(one, other, strict=True))
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :count]
    return index.gather(1, order), similarity.gather(1, order)


def likeness(images_a: Tensor, images_b: Tensor, check: Callable[[], None] | None = None) -> Tensor:
    """How far each image and its partner are one picture: float32 (N,) in [0, 1], at least `NEAR_DUPLICATE` for a near-duplicate.

    images: uint8 (N, 3, H, W) of one shape. The correlation of their details, meant over the parts of a window, at the best
    of some crops and shifts, as they are or mirrored. 1 for equal images; 0 where the coarse tones do not agree, and for all but
    equal images of less than `LEAST_SIDE` px, which have no details to go by. `check` is called every now and then, and may raise
    to end it.
    """
    if images_a.shape != images_b.shape or images_a.ndim != 4:
        raise UsageError(
            f"pairs of images must have one shape (N, 3, H, W), got {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    if images_a.dtype != torch.uint8 or images_b.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images_a.dtype} and {images_b.dtype}")
    found = [
        torch.maximum(_likeness(a, b, check), _likeness(a, b.flip(3), check))
        for a, b in zip(images_a.split(1024), images_b.split(1024), strict=True)
    ]
    return torch.cat(found)


def _likeness(a: Tensor, b: Tensor, check: Callable[[], None] | None) -> Tensor:
    equal = (a == b).flatten(1).all(1)
    found = equal.float()
    if min(a.shape[2:]) < LEAST_SIDE:
        return found
    first, second = (_resized(images.float(), _SIDE) for images in (a, b))
    near = torch.nonzero((_same_tones(first, second) >= _ALIKE_IN_TONE) & ~equal)[:, 0]
    for some in near.split(128):  # what stays in a processor's cache
        if check:
            check()
        one, other = first[some], second[some]
        # Either of them may be the crop; where both keep their size it does not matter which.
        best = torch.maximum(_agreement(one, other, _ENLARGED), _agreement(other, one, _ENLARGED[1:]))
        found[some] = best.clamp(0, 1)
    return found


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _same_tones(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the coarse tones at the best of some shifts: (N,) in [-1, 1]."""
    coarse, other = (F.adaptive_avg_pool2d(images, _COARSE) for images in (a, b))
    window, last = _unit(coarse[:, :, _APART:-_APART, _APART:-_APART]), _COARSE - 2 * _APART
    best = torch.full((len(a),), -1.0, device=a.device)
    for top in range(2 * _APART + 1):
        for left in range(2 * _APART + 1):
            best = torch.maximum(best, (window * _unit(other[:, :, top : top + last, left : left + last])).sum(1))
    return best


def _unit(values: Tensor) -> Tensor:
    """Vectors (N, D) of mean 0 and norm 1."""
    values = values.flatten(1)
    return F.normalize(values - values.mean(1, keepdim=True), dim=1)


def _details(images: Tensor) -> Tensor:
    """What a blur takes away, of the same shape."""
    return images - F.avg_pool2d(F.pad(images, (_BLUR // 2,) * 4, mode="reflect"), _BLUR, 1)


def _agreement(window_of: Tensor, other: Tensor, sides: tuple[int, ...]) -> Tensor:
    """How well the middle of `window_of` is found in `other`, enlarged to one of `sides` px, both float (N, 3, 32, 32): (N,) in
    [-1, 1]."""
    edge = (_SIDE - _WINDOW) // 2
    window = _details(window_of)[:, :, edge:-edge, edge:-edge]
    own = _by_parts(window * window) + _FAINT
    best = torch.full((len(window_of),), -1.0, device=window_of.device)
    for side in sides:
        details, last = _details(_resized(other, side)), side - _WINDOW
        # Of equal sizes they are shifted; else the window is the middle of a crop that lies anywhere in the other.
        places = range(last + 1) if side == _SIDE else range(edge - _SLACK, last - edge + _SLACK + 1)
        for top in places:
            for left in places:
                there = details[:, :, top : top + _WINDOW, left : left + _WINDOW]
                scale = (own * (_by_parts(there * there) + _FAINT)).sqrt()
                best = torch.maximum(best, (_by_parts(window * there) / scale).mean(1))
    return best


def _by_parts(values: Tensor) -> Tensor:
    """The mean over each part of the plane, summed over colours: (N, parts)."""
    return F.adaptive_avg_pool2d(values.sum(1, keepdim=True), _PARTS).flatten(1)
