"""A window of an encoded image, brought to one size while it is decoded.

In: encoded bytes (or what else a source gives) and a window in px of the upright image. Out: uint8 (S, S, 3), RGB.
JPEGs are decoded by simplejpeg where it is installed, else by Pillow. Both hold libjpeg-turbo and are asked for the same
transform and the same upsampling of colour, so that the pixels are the same, bit for bit (a test holds that), and a resume does not
depend on which of them is there. What simplejpeg does not take as it is (CMYK, turned by EXIF, slightly damaged) is Pillow's,
whose judgement of what is damaged counts. Neither can decode a part of an image alone; a JPEG whose window is at least
twice, four or eight times as large as S along both sides is decoded at a half, a quarter or an eighth of its size, and the window
then moves to whole pixels of the smaller image (by at most half an output pixel).
The resize is torch's for uint8: bilinear, antialiased, within 1 of 255 of Pillow's, in about a third of its time.
"""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from groundup.data.pixels.decode import orientation, refuse_huge, to_rgb
from groundup.data.sources import RawImage

Window = tuple[int, int, int, int]  # top, left, height, width in px
Interpolation = Literal["bilinear", "nearest"]

_JPEG = b"\xff\xd8\xff"
_FACTORS = (8, 4, 2)  # by which a JPEG decoder reduces at no cost; others it has are slower than the whole
_PLAIN = ("YCbCr", "Gray")  # colours that simplejpeg turns into RGB as Pillow does


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read: its sides in px, upright.

    `pixels(factor)`: uint8 (ceil(height / factor), ceil(width / factor), 3); factors other than 1 only if it is `reducible`, and
    none larger than a side.
    """

    height: int
    width: int
    pixels: Callable[[int], np.ndarray]
    reducible: bool


def open_image(raw: RawImage, *, fast: bool = True) -> Opened:
    """Read the header of `raw`. Raises whatever a decoder does; `decode.named_failures` gives that a name.

    `fast`: with simplejpeg if it is installed and takes the image.
    """
    if isinstance(raw, Path):
        raw = raw.read_bytes()
    if not isinstance(raw, bytes) or not raw.startswith(_JPEG):
        whole = np.array(to_rgb(raw))
        return Opened(whole.shape[0], whole.shape[1], lambda factor: whole, reducible=False)
    return (_with_simplejpeg(raw) if fast else None) or _with_pillow(raw)


def cut(image: Opened, window: Window, side: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """The window of `image`, brought to (side, side): uint8 (side, side, 3)."""
    top, left, height, width = window
    factor = 1
    if image.reducible and interpolation == "bilinear":
        factor = next((factor for factor in _FACTORS if min(height, width) >= factor * side), 1)
    pixels = torch.from_numpy(image.pixels(factor))
    rows, columns = _reduced(top, height, factor), _reduced(left, width, factor)
    return resized(pixels[rows, columns], side, interpolation)


def _reduced(start: int, length: int, factor: int) -> slice:
    """A window along one axis in an image that is `factor` times smaller, to the nearest whole pixel."""
    return slice(round(start / factor), round((start + length) / factor))


def resized(pixels: Tensor, side: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """`pixels`, uint8 (H, W, 3), of any strides, brought to (side, side, 3)."""
    if pixels.shape[:2] == (side, side):
        return pixels
    planes = pixels.permute(2, 0, 1)[None]
    if interpolation == "nearest":
        planes = F.interpolate(planes, size=(side, side), mode="nearest-exact")
    else:
        planes = F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0)


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _with_simplejpeg(raw: bytes) -> Opened | None:
    """None for what Pillow has to judge."""
    library = _simplejpeg()
    if library is None or (b"Exif\0\0" in raw and _turned(raw)):
        return None
    try:
        height, width, colours, _ = library.decode_jpeg_header(raw)
    except ValueError:
        return None
    if colours not in _PLAIN:
        return None
    refuse_huge(width, height)

    def pixels(factor: int) -> np.ndarray:
        smallest = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
        try:
            decoded: np.ndarray = library.decode_jpeg(raw, "RGB", min_factor=factor, **smallest)
        except ValueError:  # Pillow reads some that are not quite right, and says what is wrong with the others
            return _with_pillow(raw).pixels(factor)
        return decoded

    return Opened(height, width, pixels, reducible=True)


def _turned(raw: bytes) -> bool:
    with Image.open(io.BytesIO(raw), formats=["JPEG"]) as image:
        return orientation(image) != 1


def _with_pillow(raw: bytes) -> Opened:
    with Image.open(io.BytesIO(raw)) as image:
        refuse_huge(image.width, image.height)
        width, height = image.size
        swapped = orientation(image) >= 5

    def pixels(factor: int) -> np.ndarray:
        return np.array(to_rgb(raw, (width // factor, height // factor)))

    return Opened(*((width, height) if swapped else (height, width)), pixels, reducible=True)
