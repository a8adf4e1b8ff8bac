"""From an image of any kind to uint8 RGB (H, W, 3), and to one square size.

Grey (8 and 16 bit), palette, CMYK, YCbCr and alpha images become RGB. 16-bit values keep their upper 8 bits.
Transparent pixels are composited on white, the page on which such pictures are made to be seen. The EXIF orientation
is applied. Of several frames the first is used. Images of more than MAX_PIXELS are refused before their pixels are
read: a small file can unpack to gigabytes. Resizing is Pillow's antialiased bilinear filter; a JPEG at least four
times too large is first reduced by its decoder (to no less than twice the size). What is large and not RGB is converted and
turned strip by strip, so that only the image as it was decoded and the result are held in full.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from groundup.basis.errors import DataError
from groundup.basis.machine import usable_cores
from groundup.data.settings import Resize
from groundup.data.sources import RawImage

# What a file that holds an image is called.
EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
MAX_PIXELS = 89_478_485  # what Pillow itself warns about: a quarter of a gigabyte as RGB
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_BORDER = (0, 0, 0)
_STRIP = 1 << 20  # px that are converted at once
# What turns an image upright, by its EXIF orientation; whether its first row then lies at the right or at the bottom.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False),
    3: (Image.Transpose.ROTATE_180, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, True),
    5: (Image.Transpose.TRANSPOSE, False),
    6: (Image.Transpose.ROTATE_270, True),
    7: (Image.Transpose.TRANSVERSE, True),
    8: (Image.Transpose.ROTATE_90, False),
}


class UnreadableImage(DataError):
    """An image that cannot be used; `reason` says why, without its name. `hint`: the way on, by default that of an image of a
    data set."""

    def __init__(
        self, name: str, reason: str, hint: str = "remove it, or leave such images out with data.on_bad_image=skip"
    ) -> None:
        super().__init__(f"{name}: {reason}", hint=hint)
        self.reason = reason


def decode_image(raw: RawImage, name: str, *, resolution: int | None, resize: Resize = "squash") -> np.ndarray:
    """uint8 (H, W, 3); H = W = `resolution` unless that is None. UnreadableImage names the image and the reason."""
    with named_failures(name):
        image = to_rgb(raw, None if resolution is None else (2 * resolution, 2 * resolution))
        return np.asarray(image if resolution is None else _resize(image, resolution, resize))


@contextlib.contextmanager
def named_failures(name: str) -> Iterator[None]:
    """Turns whatever decoding raises into an UnreadableImage of that name."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image in a format that Pillow reads") from error
    # Pillow's decoders answer damaged files with OSError, SyntaxError, struct.error, zlib.error, IndexError and more.
    except Exception as error:
        # The operating system's message without the path: the name gives it, and it may hold a home folder.
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImage(name, said or type(error).__name__) from error


def to_rgb(raw: RawImage, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The whole image, upright, in RGB. A JPEG may come reduced, to no less than the width and height `at_least` in px (before it
    is turned upright)."""
    if isinstance(raw, np.ndarray):
        return _rgb(_from_array(raw))
    if isinstance(raw, Image.Image):
        return _upright_rgb(raw)
    if isinstance(raw, Path):
        raw = raw.read_bytes()
    if not raw:
        raise ValueError("the image is empty (0 bytes)")
    # Pillow tries WebP after 40 other formats, which costs more than decoding a small image.
    formats = ["WEBP"] if raw[8:12] == b"WEBP" else None
    with Image.open(io.BytesIO(raw), formats=formats) as image:
        refuse_huge(image.width, image.height)
        if at_least is not None:
            image.draft(image.mode, at_least)
        return _upright_rgb(image)


def refuse_huge(width: int, height: int) -> None:
    """ValueError if there are more pixels than are read."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.dtype != np.uint8
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
        or not array.size
    ):
        raise ValueError(
            f"an array {array.dtype} {array.shape}; allowed: uint8 or uint16 (H, W), (H, W, 1), (H, W, 3), (H, W, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = orientation(image)  # after `load`, in which Pillow turns a TIFF itself
    if _is_rgb(image) or image.width * image.height <= _STRIP:
        return _turned(_rgb(image), turn)
    rows = max(1, _STRIP // image.width)
    page = Image.new("RGB", image.size if turn < 5 else (image.height, image.width))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = _turned(_rgb(image.crop((0, top, image.width, bottom))), turn)
        place = image.height - bottom if turn in _TURNS and _TURNS[turn][1] else top
        page.paste(strip, (0, place) if turn < 5 else (place, 0))
    return page


def _turned(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(_TURNS[turn][0]) if turn in _TURNS else image


def orientation(image: Image.Image) -> int:
    """How the image is turned, by its EXIF block: 1 is upright, from 5 on its sides are swapped; at most 8."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return int(found) if found in range(2, 9) else 1


def _is_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def _rgb(image: Image.Image) -> Image.Image:
    if _is_rgb(image):
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"grey values {values.min()}..{values.max()}; at most 16 bits are read")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point grey values, whose range is not known; save it with 8 or 16 bits")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _resize(image: Image.Image, side: int, resize: Resize) -> Image.Image:
    width, height = image.size
    if (width, height) == (side, side):
        return image
    if resize == "squash":
        return image.resize((side, side), Image.Resampling.BILINEAR)
    if resize == "crop":
        square = min(width, height)
        left, top = (width - square) / 2, (height - square) / 2
        return image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + square, top + square))
    scale = side / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    page = Image.new("RGB", (side, side), _BORDER)
    page.paste(image.resize(inner, Image.Resampling.BILINEAR), ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return page


def decode_threads(processes: int = 1) -> int:
    """How many threads decode at once: the cores this process may use, at most 16. `processes` decode side by side."""
    return min(16, max(1, usable_cores() // processes))
