"""What strangers hand to the demo page, from a file to a prepared image: named reasons for a refusal, bounded memory.

Sizes    width and height in px as the picture is seen (upright); content: at most MAX_BYTES; prepared: uint8 (3, S, S).
Memory   Sizes are read from the header, before a pixel is decoded. A JPEG that its decoder reduces on the way (to no less than
         twice the network's input) may have up to 89 million pixels; what has to be held in full, as PNG and progressive JPEG,
         at most MAX_HELD. Decoding 25 million pixels takes 100 MB, with transparency three times that.
Here     `groundup.data.decode` prepares the picture, as the training images were. Only formats of photographs and web pages are
         opened: Pillow also knows some that start other programs.
"""

import codecs
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.data import UnreadableImage
from groundup.data.decode import MAX_PIXELS
from groundup.runs.load import Classifier

MAX_BYTES = 32 << 20
MAX_HELD = 25_000_000
MIN_SIDE = 4
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")

_READ = "JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF are read"
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 lie on their side
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
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
        reduced = image.format in ("JPEG", "MPO") and "progressive" not in image.info
        allowed = MAX_PIXELS if reduced else MAX_HELD
        _require(width * height <= allowed, name, _too_many(width, height))
        orientation = _orientation(image)
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
    return (
        f"{said}; at most {MAX_HELD // 1_000_000} are read, of a JPEG that is not progressive {MAX_PIXELS // 1_000_000}"
    )


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
