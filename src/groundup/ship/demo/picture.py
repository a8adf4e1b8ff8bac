"""What strangers hand to the demo page, from a file to a prepared image: named reasons for a refusal, bounded memory.

Sizes    width and height in px as the picture is seen (upright); content: at most MAX_BYTES; prepared: uint8 (3, S, S).
Memory   Sizes are read from the header, before a pixel is decoded. A JPEG that its decoder reduces on the way (to no less than
         twice the network's input) may have up to 89 million pixels; what has to be held in full, as PNG and a JPEG in several
         scans, at most MAX_HELD. Decoding 25 million pixels takes 100 to 200 MB, in AVIF and TIFF up to 300 MB, in WebP 400 MB.
Here     `data.pixels.decode` prepares the picture, as the training images were. Only formats of photographs and web pages are
         opened: Pillow also knows some that start other programs.
"""

import codecs
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.data import UnreadableImage
from groundup.data.pixels.decode import MAX_PIXELS
from groundup.runs.load import Classifier

MAX_BYTES = 32 << 20
MAX_HELD = 25_000_000
MIN_SIDE = 4
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")

_READ = "JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF are read"
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 lie on their side
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_JPEG_SCAN = b"\xda"
_JPEG_SEQUENTIAL = (b"\xc0", b"\xc1")
# What may stand before the scan of such a file: tables (DHT, DQT, DRI), applications' own (APPn) and comments.
_JPEG_TABLES_AND_NOTES = tuple(bytes([marker]) for marker in (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
_JPEG_SEGMENTS = (*_JPEG_SEQUENTIAL, *_JPEG_TABLES_AND_NOTES, _JPEG_SCAN)
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


class RefusedPicture(UsageError):
    """A picture that cannot be classified; the message says why, and can be shown to whoever sent it."""


@dataclass(frozen=True)
class Picture:
    """A picture whose header has been read. `notes`: what was done to it that its sender may not expect."""

    name: str
    content: bytes
    width: int
    height: int
    notes: tuple[str, ...]

    def prepared(self, classifier: Classifier) -> Tensor:
        """The image as the network of `classifier` sees it, uint8 (3, S, S). RefusedPicture if it is damaged."""
        side = classifier.image_size
        with _opened(self.content, self.name) as image:
            image.draft(image.mode, (2 * side, 2 * side))
            _require(image.width * image.height <= MAX_HELD, self.name, _too_many(self.width, self.height))
            try:
                return classifier.prepare(image)
            except UnreadableImage as error:
                raise RefusedPicture(f"{self.name}: the file is damaged: {error.reason}") from error


def read_picture(path: Path, name: str) -> Picture:
    """Look at a file that is called `name` where it came from; decodes nothing. RefusedPicture says what is wrong with it."""
    size = path.stat().st_size
    _require(size > 0, name, "the file is empty (0 bytes)")
    _require(size <= MAX_BYTES, name, f"{size / 2**20:.1f} MB; at most {MAX_BYTES >> 20} MB are read")
    content = path.read_bytes()
    with _opened(content, name) as image:
        width, height = image.size
        _require(min(image.size) >= MIN_SIDE, name, f"{width}x{height} pixels are too few: at least 4x4")
        if width * height > MAX_HELD:
            reduced = image.format in ("JPEG", "MPO") and _is_in_one_scan(content)
            _require(reduced and width * height <= MAX_PIXELS, name, _too_many(width, height))
        _require(
            _tile(image) <= MAX_HELD, name, f"its tiles have {_tile(image) / 1e6:.1f} megapixels; save it without tiles"
        )
        orientation = _orientation(image)
        if isinstance(image, TiffImageFile):  # newer versions of Pillow give the size that it will have upright
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        if orientation >= 5:
            width, height = height, width
        return Picture(name, content, width, height, tuple(_notes(image, orientation)))


def _opened(content: bytes, name: str) -> Image.Image:
    Image.init()
    try:
        return Image.open(io.BytesIO(content), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedPicture(f"{name}: {_too_many()}") from error
    except MemoryError:
        raise
    # Besides its own class, Pillow answers damaged headers with OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise RefusedPicture(f"{name}: {_instead(content)}") from error


def _is_in_one_scan(content: bytes) -> bool:
    """Whether the first scan of a sequential JPEG holds all its components. Else its decoder keeps the coefficients of the whole
    picture until the last scan. What is not understood counts as several scans."""
    at, components = 2, b""
    while content[at : at + 1] == b"\xff":
        marker = content[at + 1 : at + 2]
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        if marker not in _JPEG_SEGMENTS or size < 2:
            return False
        body = content[at + 4 : at + 2 + size]
        if marker == _JPEG_SCAN:
            return components != b"" and body[:1] == components
        if marker in _JPEG_SEQUENTIAL:
            components = body[5:6]
        at += 2 + size
    return False


def _tile(image: Image.Image) -> float:
    """Pixels of one tile of a TIFF, which is decoded as a whole however small the picture is; 0 without tiles."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    sides = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
    return math.prod(side if isinstance(side, int) else math.inf for side in sides)


def _instead(content: bytes) -> str:
    """What a file is that no decoder takes."""
    head = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<") and b"<svg" in head.lower():
        return "an SVG drawing has no pixels; save it as PNG"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        return "HEIC pictures are not read; save it as JPEG"
    return f"{'a text file and not an image' if _is_text(head) else 'not an image, or a damaged one'}; {_READ}"


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _too_many(width: int = 0, height: int = 0) -> str:
    said = f"{width:,}x{height:,} pixels are {width * height / 1e6:.1f} megapixels" if width else "too many pixels"
    return f"{said}; at most {MAX_HELD // 1_000_000} are read, of a JPEG in one scan (not progressive) {MAX_PIXELS // 1_000_000}"


def _orientation(image: Image.Image) -> int:
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return found if found in range(1, 9) else 1


def _notes(image: Image.Image, orientation: int) -> list[str]:
    notes = []
    # A phone's MPO holds a second view of the same scene, which nobody calls an animation.
    if image.format in ("GIF", "PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        notes.append("The picture is animated: its first frame is classified.")
    if image.format == "TIFF" and getattr(image, "is_animated", False):
        notes.append("The file has several pages: the first is classified.")
    if orientation != 1:
        notes.append("The picture was turned upright as its EXIF orientation says.")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        notes.append("Parts that are transparent, if any, are shown on white.")
    return notes


def _require(holds: bool, name: str, reason: str) -> None:
    if not holds:
        raise RefusedPicture(f"{name}: {reason}")
