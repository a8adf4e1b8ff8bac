"""The operations that automatic policies choose from, their magnitudes, and how each image gets one of its own.

Shapes   images uint8 (B, 3, S, S) -> the same; `operation` int64 (B,), a place in `NAMES`; `magnitude` float32 (B,), in the
         operation's own unit: shear in px per px; translation in px (whole); angle in degrees, counter-clockwise; colour,
         contrast, brightness and sharpness as what is added to the factor 1; posterize in bits kept; solarize as threshold.
Source   Names, ranges and signs are those of torchvision's AutoAugment, RandAugment, TrivialAugmentWide and AugMix: shears keep
         the top left corner, rotations the centre, black comes in at the border.
Note     The five geometric operations are one warp. A CPU computes every operation for its images alone; a GPU computes each for
         all images and selects, since counting them would make the host wait.
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.augment import colour
from groundup.augment.base import Parameters
from groundup.augment.geometry import Interpolation, warp

Kernel = Callable[[Tensor, Tensor], Tensor]

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
COLOUR: dict[str, Kernel] = {
    "Brightness": lambda images, magnitude: colour.brightness(images, 1 + magnitude),
    "Color": lambda images, magnitude: colour.saturation(images, 1 + magnitude),
    "Contrast": lambda images, magnitude: colour.contrast(images, 1 + magnitude),
    "Sharpness": lambda images, magnitude: colour.sharpness(images, 1 + magnitude),
    "Posterize": lambda images, magnitude: colour.posterize(images, magnitude.long()),
    "Solarize": lambda images, magnitude: colour.solarize(images, magnitude),
    "AutoContrast": lambda images, _: colour.autocontrast(images),
    "Equalize": lambda images, _: colour.equalize(images),
    "Invert": lambda images, _: colour.invert(images),
}
NAMES = ("Identity", *GEOMETRIC, *COLOUR)
PLACES = {name: place for place, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Scale:
    """Magnitudes of one operation from `weakest` to `strongest`; `signed`: half of the draws are negative; `whole`: integers."""

    name: str
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    whole: bool = False

    def magnitudes(self, bins: int) -> Tensor:
        """float32 (bins,): evenly spaced, and then rounded (bits) or cut (pixels) where they have to be whole."""
        if self.name == "Posterize":
            # Rounding the step and not the value decides which way the halves go.
            span = self.weakest - self.strongest
            return self.weakest - (torch.arange(bins) / ((bins - 1) / span)).round()
        even = torch.linspace(self.weakest, self.strongest, bins)
        return even.trunc() if self.whole else even


Space = tuple[Scale, ...]


def space(*, shear: float, shift: float, angle: float, colour: float, bits: tuple[int, int]) -> Space:
    """The 14 operations shared by all policies; the arguments are their strongest magnitudes (`shift` in px, `angle` in degrees).

    `bits`: kept by the weakest and by the strongest Posterize.
    """
    return (
        Scale("Identity"),
        Scale("ShearX", 0, shear, signed=True),
        Scale("ShearY", 0, shear, signed=True),
        Scale("TranslateX", 0, shift, signed=True, whole=True),
        Scale("TranslateY", 0, shift, signed=True, whole=True),
        Scale("Rotate", 0, angle, signed=True),
        *(Scale(name, 0, colour, signed=True) for name in ("Brightness", "Color", "Contrast", "Sharpness")),
        Scale("Posterize", *bits, whole=True),
        Scale("Solarize", 255, 0),
        Scale("AutoContrast"),
        Scale("Equalize"),
    )


@dataclass(frozen=True)
class Tables:
    """A space of K operations as tensors: `places` int64 (K,) in `NAMES`, `magnitudes` float32 (K, bins), `signed` bool (K,)."""

    places: Tensor
    magnitudes: Tensor
    signed: Tensor

    def choose(self, entry: Tensor, magnitude_bin: Tensor, negative: Tensor) -> Parameters:
        """`operation` and `magnitude` for entries of the space and bins, int64, and signs, bool: all of one shape."""
        magnitude = self.magnitudes[entry, magnitude_bin]
        magnitude = torch.where(negative & self.signed[entry], -magnitude, magnitude)
        return {"operation": self.places[entry], "magnitude": magnitude}


@functools.lru_cache(maxsize=64)
def tables(space: Space, bins: int, device: torch.device) -> Tables:
    """The tensors of `space`. Made once per device: copying from the host waits for a GPU, and no step may wait."""
    return Tables(
        torch.tensor([PLACES[scale.name] for scale in space], device=device),
        torch.stack([scale.magnitudes(bins) for scale in space]).to(device),
        torch.tensor([scale.signed for scale in space], device=device),
    )


def draw_operations(
    space: Space, shape: tuple[int, ...], generator: torch.Generator, *, bins: int, weakest: int, strongest: int
) -> Parameters:
    """Operations of `space`, each equally likely, with a bin in [weakest, strongest] and, where signed, a fair sign.

    `operation` int64 and `magnitude` float32, both of `shape`, on the generator's device.
    """
    device = generator.device
    entry = torch.randint(len(space), shape, generator=generator, device=device)
    magnitude_bin = torch.randint(weakest, strongest + 1, shape, generator=generator, device=device)
    negative = torch.rand(shape, generator=generator, device=device) < 0.5
    return tables(space, bins, device).choose(entry, magnitude_bin, negative)


def perform(
    images: Tensor, operation: Tensor, magnitude: Tensor, *, among: Collection[str], interpolation: Interpolation
) -> Tensor:
    """Each image's own operation at its own magnitude. `among`: the names that `operation` may hold."""
    if images.device.type == "cpu":
        return on_groups(images, operation, magnitude, interpolation)
    return on_all(images, operation, magnitude, among, interpolation)


def on_groups(images: Tensor, operation: Tensor, magnitude: Tensor, interpolation: Interpolation) -> Tensor:
    """`perform`, each operation on its own images alone; the host learns how many they are."""
    order = operation.argsort(stable=True)  # one gather in and one out, whatever the number of groups
    counts = torch.bincount(operation, minlength=len(NAMES)).tolist()
    changed = images.index_select(0, order)  # several times faster than images[order]
    start = counts[0]
    end = start + sum(counts[1 : 1 + len(GEOMETRIC)])
    if end > start:
        group = order[start:end]
        matrix = _matrices(operation[group], magnitude[group], images.shape[-1])
        changed[start:end] = _warped(changed[start:end], matrix, interpolation)
    for kernel, count in zip(COLOUR.values(), counts[1 + len(GEOMETRIC) :], strict=True):
        start, end = end, end + count
        if count:
            changed[start:end] = kernel(changed[start:end], magnitude[order[start:end]])
    return changed.index_select(0, order.argsort())


def on_all(
    images: Tensor, operation: Tensor, magnitude: Tensor, among: Collection[str], interpolation: Interpolation
) -> Tensor:
    """`perform`, each operation on all images and then selected; the host need not wait."""
    geometric = (operation >= PLACES[GEOMETRIC[0]]) & (operation <= PLACES[GEOMETRIC[-1]])
    matrix = _matrices(operation, magnitude, images.shape[-1])
    result = torch.where(geometric[:, None, None, None], _warped(images, matrix, interpolation), images)
    for name in COLOUR:
        if name in among:
            chosen = operation == PLACES[name]
            # A magnitude of another operation may be none at all for this one (bits, say); 0 is one for all of them.
            changed = COLOUR[name](images, torch.where(chosen, magnitude, 0.0))
            result = torch.where(chosen[:, None, None, None], changed, result)
    return result


def _warped(images: Tensor, matrix: Tensor, interpolation: Interpolation) -> Tensor:
    return warp(images, matrix, interpolation=interpolation, fill=images.new_zeros((len(images), 3)))


def _matrices(operation: Tensor, magnitude: Tensor, size: int) -> Tensor:
    """float32 (B, 2, 3), from places in the result to places in the image; the identity for what is not geometric."""
    shear_x, shear_y, move_x, move_y, angle = (
        torch.where(operation == PLACES[name], magnitude, 0.0) for name in GEOMETRIC
    )
    cos, sin, centre = angle.deg2rad().cos(), angle.deg2rad().sin(), size / 2
    # An image has one of the five, so that their entries can be added.
    right = [cos, shear_x - sin, centre * (1 - cos + sin) - move_x]
    down = [sin + shear_y, cos, centre * (1 - cos - sin) - move_y]
    return torch.stack([*right, *down], 1).view(-1, 2, 3)
