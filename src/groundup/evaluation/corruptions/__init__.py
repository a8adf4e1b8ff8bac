"""The 15 standard corruptions at 5 severities, made on the fly from clean images, batched, on the images' device.

Shapes   `corrupt`: images uint8 (B, 3, S, S), red, green, blue, S at least 8 -> a new tensor of the same shape and dtype.
Random   what happens to image number `first + i` depends on (seed, name, severity, first + i) alone, so that the batch size does
         not matter. On a GPU the numbers are the same; a level may differ by 1 where rounding does.
Source   D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
         (arXiv 1903.12261). The parameters are those of the scripts behind the published data sets: CIFAR-C (make_cifar_c.py) for
         sides up to 64 px, ImageNet-C (make_imagenet_c.py) for larger ones. They are chosen by the side, with nothing in between:
         lengths stay in px, but for the elastic transform, whose lengths are shares of the side.
Differs  the published images are one draw, these are another: errors agree on average, not image by image. `frost` is generated
         instead of photographed, see APPROXIMATE. ImageNet-C was stored as JPEG of quality 85, which is left out here.
         Say "generated corruptions" next to a number; it is not a CIFAR-10-C or ImageNet-C result.
Severity the mean absolute difference from the clean image grows from 1 to 5, except where the published parameters do not let
         it: of the small ones glass blur, motion blur (3 and 4 are alike), frost and elastic transform.
Cost     2,000 images of 32 px at all 5 severities on one CPU core, in CPU seconds: zoom blur 12, shot noise 4, frost 2.5, JPEG and
         pixelate 2, every other 1 or less; 29 for all 15.
"""

from typing import Any

import torch
from torch import Tensor

from groundup.basis.errors import UsageError, unknown_name
from groundup.basis.seeding import scrambled, seed_from
from groundup.evaluation.corruptions import blur, digital, noise, weather
from groundup.evaluation.corruptions.base import SEVERITIES, SMALL, Corruption

__all__ = ["APPROXIMATE", "CORRUPTIONS", "SEVERITIES", "SMALL", "SMALLEST", "Corruption", "corrupt"]

CORRUPTIONS: dict[str, Corruption[Any]] = {
    "gaussian_noise": noise.GAUSSIAN_NOISE,
    "shot_noise": noise.SHOT_NOISE,
    "impulse_noise": noise.IMPULSE_NOISE,
    "defocus_blur": blur.DEFOCUS_BLUR,
    "glass_blur": blur.GLASS_BLUR,
    "motion_blur": blur.MOTION_BLUR,
    "zoom_blur": blur.ZOOM_BLUR,
    "snow": weather.SNOW,
    "frost": weather.FROST,
    "fog": weather.FOG,
    "brightness": weather.BRIGHTNESS,
    "contrast": digital.CONTRAST,
    "elastic_transform": digital.ELASTIC_TRANSFORM,
    "pixelate": digital.PIXELATE,
    "jpeg_compression": digital.JPEG_COMPRESSION,
}
# Made another way than the published data, not only from other random numbers.
APPROXIMATE = {"frost"}

SMALLEST = 8  # px


def corrupt(images: Tensor, name: str, severity: int, seed: int, first: int = 0) -> Tensor:
    """`images` under the corruption `name` (a key of CORRUPTIONS) at `severity`, 1 (weak) to 5 (strong).

    seed: of the whole evaluation, any integer; first: number of the first image in its split, at least 0.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, list(CORRUPTIONS))
    if severity not in SEVERITIES:
        raise UsageError(f"severity={severity!r}: allowed: 1, 2, 3, 4, 5", hint="1 is the weakest, 5 the strongest")
    if first < 0:
        raise UsageError(f"first={first}: the number of an image in its split is 0 or more")
    _require_images(images)
    if len(images) == 0:
        return images.clone()
    corruption = CORRUPTIONS[name]
    numbers = torch.arange(first, first + len(images), device=images.device)
    # Scrambled, so that neighbouring images share no numbers even if seeds are added to.
    seeds = scrambled(numbers * -7046029254386353131 + seed_from(seed, "corruption", name, severity))
    return corruption.apply(images.contiguous(), corruption.parameters(severity, images.shape[-1]), seeds)


def _require_images(images: Tensor) -> None:
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if not square or images.shape[3] < SMALLEST or images.dtype != torch.uint8:
        raise ValueError(
            f"need images uint8 (B, 3, S, S) with S of at least {SMALLEST}, got {images.dtype} {tuple(images.shape)}"
        )
