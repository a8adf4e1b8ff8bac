"""Weather: snow, frost, fog and brightness.

Shapes   images uint8 (B, 3, S, S), the parameters of one severity, seeds int64 (B,) -> uint8 (B, 3, S, S).
Source   Hendrycks and Dietterich (arXiv 1903.12261) and the scripts make_cifar_c.py and make_imagenet_c.py they published.
Frost    is APPROXIMATE: the published data mix in crops of five photographs of frozen windows. Here a texture is generated
         for every image: ridges of noise stretched along three directions 60 degrees apart (the needles of ice crystals) at
         three scales, in patches, with the mean colour, the spread of brightness between crops and the contrast within a crop
         of those photographs. The weights of image and frost are the published ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.augment.gaussian_noise import normal
from groundup.evaluation.corruptions.base import SMALL, Corruption, cut, one_each, uniform, zoomed
from groundup.evaluation.corruptions.blur import smeared

Snow = tuple[float, float, float, float, int, float, float]

_GREY = (0.299, 0.587, 0.114)
_FROST_COLOUR = (0.89, 1.02, 1.09)  # of the photographs, over their grey level
_FROST_LEVELS = (120.0, 205.0)  # grey level of a whole crop
_FROST_CONTRAST = (
    14.0,
    25.0,
)  # levels, standard deviation within a crop: for a small image at a fifth of the size, for a large
_CRYSTALS = (5, 10, 20)  # needles side by side on the image
_SLENDER = 5.0  # length of a needle over its width


def snow(images: Tensor, snow: Snow, seeds: Tensor) -> Tensor:
    """Whiten, and add flakes that fall.

    `snow`: mean and standard deviation of the layer of flakes, its enlargement, the threshold below which there is no flake,
    radius and sigma of its motion (px), and what remains of the image's own colour.
    """
    mean, std, enlarged, threshold, radius, sigma, kept = snow
    side = images.shape[-1]
    layer = zoomed(normal(seeds, 1, side, side).mul_(std).add_(mean), enlarged)
    layer = cut(torch.where(layer < threshold, 0.0, layer) * 255).float()
    layer = smeared(layer, (radius, sigma), one_each(seeds + 1, -135, -45)).round_()
    levels = images.float()
    grey = sum((levels[:, i : i + 1] * share for i, share in enumerate(_GREY)), torch.zeros_like(levels[:, :1]))
    white = torch.maximum(levels, grey * 1.5 + 127.5)
    return cut(levels * kept + white * (1 - kept) + layer + layer.rot90(2, (2, 3)))


def frost(images: Tensor, weights: tuple[float, float], seeds: Tensor) -> Tensor:
    """The image and a texture of ice, summed. `weights`: of the image and of the ice."""
    own, ice = weights
    return cut(images.float() * own + frost_texture(seeds, images.shape[-1]) * ice)


def frost_texture(seeds: Tensor, side: int) -> Tensor:
    """Generated frost, see the module: levels, float32 (B, 3, side, side)."""
    line = (torch.arange(side, device=seeds.device) + 0.5) / side - 0.5
    x, y = line.expand(len(seeds), side, side), line[:, None].expand(len(seeds), side, side)
    turn = one_each(seeds, 0, math.pi)
    crystals = torch.zeros_like(x)
    for scale, needles in enumerate(_CRYSTALS):
        found = torch.zeros_like(x)
        for way in range(3):
            angle = (turn + way * (math.pi / 3))[:, None, None]
            along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
            stream = seeds + (2 + 3 * scale + way)
            ridge = 1 - lattice_noise(stream, along * (needles / _SLENDER), across * needles, needles).abs()
            found = torch.maximum(found, ridge**4)
        crystals += found * 0.7**scale
    patches = lattice_noise(seeds + 1, x * 3, y * 3, 3)
    texture = crystals * (1 + 0.6 * patches) + 0.4 * patches
    mean = texture.mean((1, 2), keepdim=True)
    spread = texture.std((1, 2), keepdim=True).clamp(min=1e-6)
    contrast = _FROST_CONTRAST[side > SMALL]
    level = one_each(seeds + 20, *_FROST_LEVELS)[:, None, None]
    grey = (texture - mean) * (contrast / spread) + level
    return torch.stack([grey * share for share in _FROST_COLOUR], 1).clamp_(0, 255)


def lattice_noise(seeds: Tensor, x: Tensor, y: Tensor, cells: int) -> Tensor:
    """Random numbers in [-1, 1] on whole positions, linear between them: (B, H, W), read at `x`, `y`, in [-0.75, 0.75] * cells."""
    half = math.ceil(0.75 * cells) + 1
    lattice = uniform(seeds, 1, 2 * half + 1, 2 * half + 1) * 2 - 1
    return F.grid_sample(lattice, torch.stack([x, y], -1) / half, align_corners=True, padding_mode="border")[:, 0]


def fog(images: Tensor, fog: tuple[float, float], seeds: Tensor) -> Tensor:
    """Add a cloud, then scale the sum so that it stays below the image's brightest value. `fog`: thickness of the cloud, and how
    much weaker each finer step of it is."""
    thickness, decay = fog
    side = images.shape[-1]
    cloud = plasma(seeds, 1 << max(side - 1, 31 if side <= SMALL else 255).bit_length(), decay)
    brightest = images.amax((1, 2, 3), keepdim=True).float()
    hazy = images.float() + (255 * thickness) * cloud[:, None, :side, :side]
    return cut(hazy * (brightest / (brightest + 255 * thickness)))


def plasma(seeds: Tensor, side: int, decay: float) -> Tensor:
    """A cloud by the diamond-square rule on a torus: float32 (B, side, side), from 0 to 1. `side` is a power of 2.

    From one point on, a grid twice as fine is made: the middle of four points is their mean plus a random number, then the
    middle of each edge is the mean of its two ends and of the two middles beside it plus a random number. The random numbers
    shrink by `decay` squared at each step (the published code multiplies by the step's strength twice).
    """
    cloud = torch.zeros(len(seeds), 1, 1, device=seeds.device)
    strength, step = 1.0, 0
    while cloud.shape[-1] < side:
        size = cloud.shape[-1]
        noise = (uniform(seeds + step, 3, size, size) * 2 - 1) * strength
        right, down = cloud.roll(-1, 2), cloud.roll(-1, 1)
        middle = (cloud + right + down + down.roll(-1, 2)) / 4 + noise[:, 0]
        on_row = (cloud + right + middle + middle.roll(1, 1)) / 4 + noise[:, 1]
        on_column = (cloud + down + middle + middle.roll(1, 2)) / 4 + noise[:, 2]
        upper, lower = torch.stack([cloud, on_row], -1).flatten(2), torch.stack([on_column, middle], -1).flatten(2)
        cloud = torch.stack([upper, lower], 2).flatten(1, 2)
        strength, step = strength / decay**2, step + 1
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True)


def brightness(images: Tensor, more: float, seeds: Tensor) -> Tensor:
    """Raise the value of HSV by `more`, a share of full scale, up to full scale; hue and saturation stay."""
    levels = images.float()
    value = levels.amax(1, keepdim=True)
    raised = (value + 255 * more).clamp_(max=255)
    # Black has no saturation, so that it becomes grey.
    return cut(torch.where(value > 0, levels * (raised / value.clamp(min=1)), raised))


SNOW: Corruption[Snow] = Corruption(
    snow,
    small=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    large=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
FROST = Corruption(
    frost,
    small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
FOG = Corruption(
    fog,
    small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
BRIGHTNESS = Corruption(brightness, small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
