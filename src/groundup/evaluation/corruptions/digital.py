"""Digital: contrast, elastic transform, pixelate and JPEG compression.

Shapes   images uint8 (B, 3, S, S), the parameters of one severity, seeds int64 (B,) -> uint8 (B, 3, S, S).
Source   Hendrycks and Dietterich (arXiv 1903.12261) and the scripts make_cifar_c.py and make_imagenet_c.py they published.
Exact    pixelate gives the bytes of Pillow's BOX resize; JPEG is Pillow, on the CPU, with its own 4:2:0 subsampling.
Near     the affine part of the elastic transform is read at exact positions, in the published data at 1/32 px (OpenCV).
"""

import functools
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from groundup.evaluation.corruptions.base import Corruption, cut, gaussian_weights, uniform

_FRACTION_BITS = 22  # of the weights in Pillow's resize
_PARTS = 8  # a batch of JPEG images is shared out to threads in so many parts


def contrast(images: Tensor, factor: float, seeds: Tensor) -> Tensor:
    """Bring every value nearer to its channel's mean over the image: `factor` of the distance remains."""
    levels = images.float()
    mean = images.sum((2, 3), keepdim=True).double().div_(images[0, 0].numel()).float()
    return cut((levels - mean) * factor + mean)


def elastic_transform(images: Tensor, elastic: tuple[float, float, float], seeds: Tensor) -> Tensor:
    """An affine map from three points moved at random, then small displacements of every pixel.

    `elastic`, in shares of the side: strength of the displacements (which are uniform noise, smoothed), sigma of the Gaussian
    that smooths them (cut at 3 sigma), and the farthest that a point of the affine map moves along each axis.
    """
    side = images.shape[-1]
    strength, sigma, farthest = (share * side for share in elastic)
    values = _read(images.float(), *_affine_positions(seeds, side, farthest), edge_repeats=False)
    if strength > 0:
        noise = uniform(seeds + 1, 2, side, side).double() * 2 - 1
        smooth = _smoothing(side, sigma).to(images.device)
        # In 64 bits: there the order of a sum, which the batch size may change, leaves no trace.
        shifts = (smooth @ noise @ smooth.T * strength).float()
        line = torch.arange(side, device=images.device)
        values = _read(values, line + shifts[:, 0], line[:, None] + shifts[:, 1], edge_repeats=True)
    return cut(values)


def _affine_positions(seeds: Tensor, side: int, farthest: float) -> tuple[Tensor, Tensor]:
    """Where the output pixels are read, x and y (B, S, S), if three points of the image move by up to `farthest` px."""
    middle, reach = side // 2, side // 3
    # The second corner is joined to the first and the third by a vertical and a level edge.
    corners = [(middle + reach, middle + reach), (middle + reach, middle - reach), (middle - reach, middle - reach)]
    moves = (uniform(seeds, 1, 3, 2)[:, 0].double() * 2 - 1) * farthest
    moved = torch.tensor(corners, dtype=torch.float64, device=seeds.device) + moves  # (B, 3, 2)
    (ax, ay), (bx, by) = (edge.unbind(1) for edge in (moved[:, 0] - moved[:, 1], moved[:, 2] - moved[:, 1]))
    line = torch.arange(side, dtype=torch.float64, device=seeds.device)
    dx = line - moved[:, 1, 0, None, None]  # (B, 1, S)
    dy = line[:, None] - moved[:, 1, 1, None, None]  # (B, S, 1)
    # A position as shares of the two moved edges; the unmoved edges are (0, 2 reach) and (-2 reach, 0).
    area = (ax * by - ay * bx)[:, None, None]
    ax, ay, bx, by = (part[:, None, None] for part in (ax, ay, bx, by))
    along_a, along_b = (by * dx - bx * dy) / area, (ax * dy - ay * dx) / area
    return (middle + reach - 2 * reach * along_b).float(), (middle - reach + 2 * reach * along_a).float()


def _read(values: Tensor, x: Tensor, y: Tensor, *, edge_repeats: bool) -> Tensor:
    """`values` (B, C, S, S) at `x`, `y` (B, S, S) in px, 0 the centre of the first, bilinear, mirrored beyond the border, where the
    border pixel is shown twice if `edge_repeats`."""
    side = values.shape[-1]
    grid = torch.stack([x, y], -1)
    grid = (grid * 2 + 1) / side - 1 if edge_repeats else grid * (2 / (side - 1)) - 1
    return F.grid_sample(values, grid, padding_mode="reflection", align_corners=not edge_repeats)


@functools.cache
def _smoothing(side: int, sigma: float) -> Tensor:
    """The Gaussian filter with mirrored ends (the border pixel twice) as a matrix: float64 (side, side)."""
    reach = int(3 * sigma + 0.5)
    weights = torch.tensor(gaussian_weights(sigma, reach), dtype=torch.float64)
    places = (torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)) % (2 * side)
    places = torch.minimum(places, 2 * side - 1 - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, weights.expand(side, -1))


def pixelate(images: Tensor, share: float, seeds: Tensor) -> Tensor:
    """Shrink to `share` of the side (rounded down) and enlarge again, both with boxes."""
    side = images.shape[-1]
    return box_resize(box_resize(images, int(side * share)), side)


def box_resize(images: Tensor, side: int) -> Tensor:
    """Pillow's resize with BOX to `side` px, byte for byte: first along the rows, then along the columns."""
    once = _box_rows(images, side)
    return _box_rows(once.transpose(2, 3), side).transpose(2, 3).contiguous()


def _box_rows(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    starts, stops, weights = (part.to(images.device) for part in _boxes(images.shape[-1], side))
    sums = F.pad(images.cumsum(-1, dtype=torch.int32), (1, 0))
    within = sums.index_select(-1, stops) - sums.index_select(-1, starts)
    rounded = (within * weights + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS
    return rounded.to(torch.uint8)


@functools.cache
def _boxes(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `new` places the first and one past the last of `old` that count, and their common weight: int64 (new,)."""
    scale = old / new
    width = max(scale, 1.0)
    boxes = []
    for place in range(new):
        centre = (place + 0.5) * scale
        near = range(max(0, int(centre - width / 2 + 0.5)), min(old, int(centre + width / 2 + 0.5)))
        # Open at the left and closed at the right, like Pillow's box.
        inside = [i for i in near if -0.5 < (i - centre + 0.5) / width <= 0.5]
        boxes.append((inside[0], inside[-1] + 1, int(0.5 + (1 << _FRACTION_BITS) / len(inside))))
    starts, stops, weights = torch.tensor(boxes, dtype=torch.int64).unbind(1)
    return starts, stops, weights.int()


def jpeg_compression(images: Tensor, quality: int, seeds: Tensor) -> Tensor:
    """Write as JPEG of `quality` (1 to 95) and read back."""
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(functools.partial(_through_jpeg, quality=quality), np.array_split(pictures, _PARTS)))
    return torch.from_numpy(np.concatenate(decoded)).to(images.device).permute(0, 3, 1, 2).contiguous()


def _through_jpeg(pictures: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    read = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            read[index] = np.asarray(image)
    return read


CONTRAST = Corruption(contrast, small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
_OF_224 = 244 / 224  # the published lengths for 224 px are written as shares of 244
ELASTIC_TRANSFORM = Corruption(
    elastic_transform,
    small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    large=(
        (2 * _OF_224, 0.7 * _OF_224, 0.1 * _OF_224),
        (2 * _OF_224, 0.08 * _OF_224, 0.2 * _OF_224),
        (0.05 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
        (0.07 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
        (0.12 * _OF_224, 0.01 * _OF_224, 0.02 * _OF_224),
    ),
)
PIXELATE = Corruption(pixelate, small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))
JPEG_COMPRESSION = Corruption(jpeg_compression, small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))
