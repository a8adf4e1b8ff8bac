"""Test images that (nearly) stand in train: nearest neighbours by features, confirmed by pixels.

Shapes   features floating point (N, D), such as what enters the last layer of a trained network; images uint8 (N, 3, H, W).
Source   B. Barz and J. Denzler, Do we train on test data? Purging CIFAR of near-duplicates, 2020: in feature space they found
         3.3% of CIFAR-10's and 10% of CIFAR-100's test images in train, and confirmed each pair by eye.
Here     the eye is replaced by the pixels: features find the candidates, since they forgive shifts and colours; the mean
         absolute difference of the pixels throws out what only shows the same kind of thing. Several candidates for each image:
         among many pictures of one class the copy need not be the nearest by features.
Values   3,000 images of CIFAR-100's train split against the other 47,000 (candidates by 8 x 8 pixels): 20 pairs up to
         0.04, 17 of them the same picture to the eye (two pairs of cans of one series and an empty sky are not); from 0.043 on
         they are mixed.
Hurts    a pair that is shifted by pixels or cropped differently is a duplicate to the eye and not to the pixels: what is
         confirmed is a lower bound. Images of one flat tone are alike without being copies: look at the pairs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError

# Mean absolute difference of the pixels, of their full range, up to which two images are near-duplicates.
NEAR_DUPLICATE = 0.04


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


def confirm_by_pixels(images_a: Tensor, images_b: Tensor) -> Tensor:
    """How far each image is from its partner: float32 (N,) in [0, 1], at most `NEAR_DUPLICATE` for a near-duplicate.

    The mean absolute difference of pixels, of the full range, after both are brought to the same mean brightness; the
    smaller one of the partner as it is and mirrored.
    """
    if images_a.shape != images_b.shape or images_a.ndim != 4:
        raise UsageError(
            f"pairs of images must have one shape (N, 3, H, W), got {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    if images_a.dtype != torch.uint8 or images_b.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images_a.dtype} and {images_b.dtype}")
    distances = [
        torch.minimum(_difference(a, b), _difference(a, b.flip(3)))
        for a, b in zip(images_a.split(1024), images_b.split(1024), strict=True)
    ]
    return torch.cat(distances)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    apart = a.float() - b.float()
    apart = apart - apart.mean((1, 2, 3), keepdim=True)  # the difference of the mean brightnesses
    return apart.abs().mean((1, 2, 3)) / 255
