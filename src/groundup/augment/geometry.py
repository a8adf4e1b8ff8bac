"""Geometry: moving pixels by an affine map, and the operations that need nothing else.

Shapes   images uint8 (B, 3, H, W) -> the same; matrices float32 (B, 2, 3), one for every image, in px.
Matrix   As Pillow's `Image.transform(AFFINE)`: the output pixel (x, y), at its centre (x + 0.5, y + 0.5), shows what stands in
         the input at `matrix @ (x + 0.5, y + 0.5, 1)`. A position outside of the image shows `fill`, or the mirrored image.
Against  Pillow: `nearest` is equal, also in its rounding of positions to 1/65536 px; `bilinear` differs by at most 1 of 255,
         since Pillow cuts the fraction off and this rounds.
Source   The operations and their names are torchvision's (`RandomRotation`, `RandomAffine`, `RandomVerticalFlip`) and
         albumentations' (`ShiftScaleRotate`). Here `bilinear` is the default everywhere, in torchvision `nearest`; and the
         limits are symmetric, so that clockwise or not makes no difference.
Values   small images: rotation of 10 to 15 degrees, shifts of a tenth of the side, scale 0.9 to 1.1.
Cost     nearest: one gather; bilinear: a copy in float32 and one interpolation.
Hurts    where orientation or size is the class (digits 6 and 9 under 180 degrees); black corners under large angles.
"""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation, fill_colour
from groundup.augment.ranges import Span, uniform

Interpolation = Literal["bilinear", "nearest"]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
_ONE = 1 << 32  # one pixel in the whole numbers that `nearest` counts in


def refuse_unordered(**ranges: Span) -> None:
    """Raise for a range whose end lies before its start; used by validators of settings."""
    for key, (low, high) in ranges.items():
        if low > high:
            raise ValueError(
                f"{key}=[{low:g}, {high:g}]: the first is larger than the second; write [{high:g}, {low:g}]"
            )


def warp(
    images: Tensor, matrix: Tensor, *, interpolation: str = "bilinear", fill: Tensor | Literal["reflect"]
) -> Tensor:
    """Every image under its own affine map, see the module. `matrix`: float32 (B, 2, 3).

    `fill`: colour of what lies outside, uint8 (B, 3), or `reflect`: mirrored at the border pixels, which are not repeated.
    """
    height, width = images.shape[-2:]
    if interpolation == "nearest":
        x, y = _cells(matrix, height, width)
        result = (
            _take(images, _folded(x, width), _folded(y, height)) if fill == "reflect" else _take_within(images, x, y)
        )
    else:
        x, y = _positions(matrix, height, width)
        result = sample(images, x, y, reflect=isinstance(fill, str))
    if isinstance(fill, str):
        return result
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside[:, None], result, fill[:, :, None, None])


def sample(images: Tensor, x: Tensor, y: Tensor, *, reflect: bool = False) -> Tensor:
    """Bilinear values at positions `x`, `y` in px, float32 (B, h, w), of uint8 images (B, C, H, W): uint8 (B, C, h, w).

    The centre of the first pixel is at 0.5. Beyond the outermost centres stands the border pixel, or with `reflect` the
    mirrored image.
    """
    height, width = images.shape[-2:]
    if reflect:
        # From -1 to 1 between the outermost centres, where the image is mirrored.
        grid = torch.stack([(x - 0.5) * (2 / max(width - 1, 1)) - 1, (y - 0.5) * (2 / max(height - 1, 1)) - 1], -1)
        values = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=True)
    else:
        grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)
        values = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return values.round().to(torch.uint8)


def _positions(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the output pixels are read in the input: x and y in px, float32 (B, H, W)."""
    x = torch.arange(width, device=matrix.device) + 0.5
    y = torch.arange(height, device=matrix.device)[:, None] + 0.5
    along_x, along_y, start = matrix.float()[..., None, None].unbind(2)  # each (B, 2, 1, 1)
    inputs = along_x * x + along_y * y + start
    return inputs[:, 0], inputs[:, 1]


def _cells(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The input pixel of every output pixel: x and y int64 (B, H, W), also outside of the image."""
    steps = (matrix.float() * _ONE).floor().long()  # (B, 2, 3)
    start = steps[..., 2:] + ((steps[..., :1] + steps[..., 1:2]) >> 1)
    steps = torch.cat([steps[..., :2], start], -1)
    # Pillow counts in 1/65536 px, but exactly where a matrix neither turns nor shears.
    exact = ((matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0))[:, None, None]
    steps = torch.where(exact, steps, ((steps + (1 << 15)) >> 16) * (1 << 16))
    along_x, along_y, start = steps[..., None, None].unbind(2)  # each (B, 2, 1, 1)
    x, y = torch.arange(width, device=matrix.device), torch.arange(height, device=matrix.device)[:, None]
    cells = (along_x * x + (along_y * y + start)) >> 32
    return cells[:, 0], cells[:, 1]


def _take(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The pixels at the whole positions `x`, `y`, int64 (B, h, w), within the image."""
    channels = images.shape[1]
    places = (y * images.shape[-1] + x).flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, places).view(-1, channels, *x.shape[1:])


def _take_within(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """As `_take`; positions outside are moved to the border."""
    return _take(images, x.clamp(0, images.shape[-1] - 1), y.clamp(0, images.shape[-2] - 1))


def _folded(positions: Tensor, size: int) -> Tensor:
    """Positions mirrored at 0 and size - 1, as often as it takes."""
    period = max(2 * (size - 1), 1)
    once = positions.remainder(period)
    return torch.minimum(once, period - once) if size > 1 else once


def affine_matrix(
    size: int,
    *,
    angle: Tensor | None = None,
    translate: tuple[Tensor, Tensor] | None = None,
    scale: Tensor | None = None,
    shear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The matrices for `warp` that change square images of side `size` (px) about their centre: float32 (B, 2, 3).

    Each tensor is float (B,). `angle`: degrees, counter-clockwise as Pillow's `rotate`; `translate`: px to the right and down;
    `scale`: above 1 enlarges; `shear`: factors (kx, ky), the tangents of torchvision's angles: the input is read at x + kx * y,
    then at y + ky * x. In the order of torchvision's `affine`: shear x, shear y, scale, rotate, translate.
    """
    parts = [angle, *(translate or ()), scale, *(shear or ())]
    given = next((part for part in parts if part is not None), None)
    if given is None:
        raise ValueError("affine_matrix: nothing to do; allowed: at least one of angle, translate, scale, shear")
    zero = torch.zeros(len(given), device=given.device)
    radians = zero if angle is None else torch.deg2rad(angle.float())
    dx, dy = translate or (zero, zero)
    kx, ky = shear or (zero, zero)
    cos, sin = radians.cos(), radians.sin()
    # The inverse map, from output to input: unshear x after unshear y after turning back.
    rows = [(1 + kx * ky) * cos + kx * sin, kx * cos - (1 + kx * ky) * sin, ky * cos + sin, cos - ky * sin]
    a, b, c, d = rows if scale is None else [entry / scale for entry in rows]
    middle = size / 2
    offset_x = middle - a * (middle + dx) - b * (middle + dy)
    offset_y = middle - c * (middle + dx) - d * (middle + dy)
    return torch.stack([a, b, offset_x, c, d, offset_y], -1).view(-1, 2, 3).float()


class Warped(RandomOperation):
    """Base of operations that are one affine map: they say which angles, shifts, scales and shears."""

    interpolation: Interpolation = Field(
        "bilinear", description="How values between pixels are read: a weighted mean, or the nearest pixel."
    )
    fill: Literal["black", "mean", "reflect"] = Field(
        "black", description="What lies outside of the image: black, the mean of the data, or the image mirrored."
    )

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        drawn = self.draw_map(batch, generator)
        return drawn if self.fill == "reflect" else {**drawn, "fill": fill_colour(batch, self.fill)}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        matrix = affine_matrix(
            images.shape[-1],
            angle=parameters.get("angle"),
            translate=(parameters["dx"], parameters["dy"]) if "dx" in parameters else None,
            scale=parameters.get("scale"),
            shear=(parameters["shear_x"], parameters["shear_y"]) if "shear_x" in parameters else None,
        )
        return warp(images, matrix, interpolation=self.interpolation, fill=parameters.get("fill", "reflect"))

    @abstractmethod
    def draw_map(self, batch: Batch, generator: torch.Generator) -> Parameters:
        """Some of `angle` (degrees), `dx` and `dy` (px), `scale`, `shear_x` and `shear_y` (factors), each float (B,)."""


class RandomRotation(Warped):
    """Turn about the centre by an angle of the image's own."""

    name: Literal["random_rotation"] = Field(description="Turn about the centre.")
    degrees: float = Field(15.0, gt=0, le=180, description="Largest angle in degrees, either way.")

    def draw_map(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {"angle": uniform((-self.degrees, self.degrees), batch, generator)}


class ShiftScaleRotate(Warped):
    """Shift, enlarge or shrink, and turn about the centre, all in one map."""

    name: Literal["shift_scale_rotate"] = Field(description="Shift, scale and turn.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    shift_limit: float = Field(0.0625, ge=0, le=1, description="Largest shift, a share of the side, along each axis.")
    scale_limit: float = Field(0.1, ge=0, lt=1, description="Largest change of scale: 0.1 is a scale of 0.9 to 1.1.")
    rotate_limit: float = Field(45.0, ge=0, le=180, description="Largest angle in degrees, either way.")
    fill: Literal["black", "mean", "reflect"] = Field(
        "reflect", description="What lies outside of the image: black, the mean of the data, or the image mirrored."
    )

    @model_validator(mode="after")
    def _acts(self) -> "ShiftScaleRotate":
        if self.shift_limit == self.scale_limit == self.rotate_limit == 0:
            raise ValueError("shift_limit=0, scale_limit=0 and rotate_limit=0 change nothing; set one of them above 0")
        return self

    def draw_map(self, batch: Batch, generator: torch.Generator) -> Parameters:
        shift = self.shift_limit * batch.size
        return {
            "dx": uniform((-shift, shift), batch, generator),
            "dy": uniform((-shift, shift), batch, generator),
            "scale": uniform((1 - self.scale_limit, 1 + self.scale_limit), batch, generator),
            "angle": uniform((-self.rotate_limit, self.rotate_limit), batch, generator),
        }


class RandomAffine(Warped):
    """Turn, shift, scale and shear about the centre, all in one map."""

    name: Literal["random_affine"] = Field(description="Turn, shift, scale and shear.")
    degrees: float = Field(15.0, ge=0, le=180, description="Largest angle in degrees, either way.")
    translate: tuple[Share, Share] = Field(
        (0.1, 0.1), description="Largest shift along x and y, shares of the side; shifts are whole px."
    )
    scale: tuple[Positive, Positive] = Field((0.9, 1.1), description="Smallest and largest scale.")
    shear: float = Field(10.0, ge=0, lt=90, description="Largest shear parallel to the x axis in degrees, either way.")
    shear_y: float = Field(0.0, ge=0, lt=90, description="Largest shear parallel to the y axis in degrees, either way.")

    @model_validator(mode="after")
    def _acts(self) -> "RandomAffine":
        refuse_unordered(scale=self.scale)
        if self.degrees == self.shear == self.shear_y == 0 and self.translate == (0, 0) and self.scale == (1, 1):
            raise ValueError(
                "degrees=0, translate=[0, 0], scale=[1, 1], shear=0 and shear_y=0 change nothing; widen one of them"
            )
        return self

    def draw_map(self, batch: Batch, generator: torch.Generator) -> Parameters:
        along_x, along_y = (share * batch.size for share in self.translate)
        return {
            "angle": uniform((-self.degrees, self.degrees), batch, generator),
            "dx": uniform((-along_x, along_x), batch, generator).round(),
            "dy": uniform((-along_y, along_y), batch, generator).round(),
            "scale": uniform(self.scale, batch, generator),
            "shear_x": torch.deg2rad(uniform((-self.shear, self.shear), batch, generator)).tan(),
            "shear_y": torch.deg2rad(uniform((-self.shear_y, self.shear_y), batch, generator)).tan(),
        }


class VerticalFlip(RandomOperation):
    """Mirror top and bottom."""

    name: Literal["vertical_flip"] = Field(description="Mirror top and bottom.")
    p: float = Field(0.5, gt=0, le=1, description="Probability of a flip, above 0.")

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        return {}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images.flip(-2)
