"""What strangers hand to the demo: read as training images are, or refused with a reason, in bounded memory."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from groundup.runs.load import Classifier
from groundup.ship.demo.picture import MAX_BYTES, Picture, RefusedPicture, read_picture

ORIENTATION = 0x0112


@pytest.fixture
def classifier() -> Classifier:
    """One that sees 8 x 8 px."""
    return Classifier(nn.Flatten(), ["cat", "dog"], 8, "squash", (0.5,) * 3, (0.2,) * 3)


@pytest.fixture
def received(tmp_path: Path) -> Callable[[bytes | Image.Image, str], Picture]:
    """received(content, name): what is made of a file."""

    def receive(content: bytes | Image.Image, name: str = "photo.png") -> Picture:
        path = tmp_path / "upload"
        if isinstance(content, Image.Image):
            content.save(path, format="PNG")
        else:
            path.write_bytes(content)
        return read_picture(path, name)

    return receive


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_picture_is_prepared_as_the_command_predict_prepares_it(
    kind: str, received: Callable[..., Picture], classifier: Classifier, tmp_path: Path
) -> None:
    content = encoded(gradient(400, 300), kind)
    (tmp_path / "same").write_bytes(content)
    assert torch.equal(received(content).prepared(classifier), classifier.prepare(tmp_path / "same"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is a letter\n", "a text file and not an image"),
        ("Grüße\n".encode() * 700, "a text file and not an image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawing"),
        (b"\xef\xbb\xbf  <SVG/>", "SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (bytes(range(256)) * 4, "not an image, or a damaged one"),
        (encoded(gradient(), "JPEG")[:40], "not an image, or a damaged one"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\x80\0", "not an image"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels are too few"),
        (encoded(Image.new("RGB", (300, 3)), "PNG"), "300x3 pixels are too few"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(
    content: bytes, reason: str, received: Callable[..., Picture]
) -> None:
    with pytest.raises(RefusedPicture, match="photo.png: .*" + reason):
        received(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused_as_damaged(
    kind: str, received: Callable[..., Picture], classifier: Classifier
) -> None:
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    content = encoded(noise, kind)
    with pytest.raises(RefusedPicture, match="damaged"):
        received(content[: len(content) // 2]).prepared(classifier)


def test_a_file_above_the_limit_is_refused_by_its_size(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(RefusedPicture, match="at most 32 MB"):
        read_picture(tmp_path / "large", "large.png")


def test_an_animation_gives_its_first_frame_and_says_so(
    received: Callable[..., Picture], classifier: Classifier
) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    picture = received(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "film.gif")
    assert picture.notes == ("The picture is animated: its first frame is classified.",)
    assert picture.prepared(classifier)[:, 4, 4].tolist() == [255, 0, 0]


def test_a_picture_on_its_side_is_turned_upright_and_says_so(
    received: Callable[..., Picture], classifier: Classifier
) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by a quarter, clockwise: the left side comes to the top
    picture = received(encoded(image, "PNG", exif=exif))
    assert (picture.width, picture.height) == (20, 40)
    assert any("upright" in note for note in picture.notes)
    prepared = picture.prepared(classifier)
    assert prepared[0, 0].max() == 0
    assert prepared[0, 7].min() == 255


def test_transparency_is_told(received: Callable[..., Picture], classifier: Classifier) -> None:
    picture = received(Image.new("RGBA", (20, 20), (255, 0, 0, 0)))
    assert picture.notes == ("Parts that are transparent, if any, are shown on white.",)
    assert picture.prepared(classifier).min() == 255


def test_the_largest_side_that_a_header_can_claim_is_refused(received: Callable[..., Picture]) -> None:
    content = bytearray(encoded(gradient(), "PNG"))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(RefusedPicture, match="too many pixels"):
        received(bytes(content))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_the_size_that_is_told_is_that_of_the_upright_picture(
    kind: str, received: Callable[..., Picture], classifier: Classifier
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = received(encoded(gradient(40, 20), kind, exif=exif), "turned")
    assert (picture.width, picture.height) == (20, 40)


def scans(width: int, height: int, together: bool) -> bytes:
    """A grey baseline JPEG of three components, in one scan or in one scan each."""

    def segment(marker: int, body: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body

    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    tables = segment(0xDB, bytes([0] + [1] * 64)) + segment(0xC0, frame)
    for kind in (0x00, 0x10):  # one code of one bit each, for "no difference" and "no more coefficients"
        tables += segment(0xC4, bytes([kind, 1] + [0] * 16))
    blocks = -(-width // 8) * -(-height // 8)
    drawn = b""
    for components in [(1, 2, 3)] if together else [(1,), (2,), (3,)]:
        named = b"".join(bytes([component, 0]) for component in components)
        drawn += segment(0xDA, bytes([len(components)]) + named + bytes([0, 63, 0]))
        drawn += bytes(-(-blocks * 2 * len(components) // 8))
    return b"\xff\xd8" + tables + drawn + b"\xff\xd9"


def test_a_jpeg_in_several_scans_is_read_up_to_the_lower_limit(
    received: Callable[..., Picture], classifier: Classifier
) -> None:
    assert received(scans(320, 200, together=False)).prepared(classifier).unique().tolist() == [128]
    assert received(scans(6000, 5000, together=True)).width == 6000
    with pytest.raises(RefusedPicture, match="at most 25 are read, of a JPEG in one scan"):
        received(scans(6000, 5000, together=False))
    # What a stranger may put before the scan is not guessed at.
    for odd in (b"\xff\x01", b"\xff\xe0\0\1", b"\0"):
        content = scans(6000, 5000, together=True)
        with pytest.raises(RefusedPicture):
            received(content[:2] + odd + content[2:])


def tiled(side: int, tile: int) -> bytes:
    """A grey TIFF of side x side px in one compressed tile."""
    data = zlib.compress(bytes(tile * tile))
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tile_far_larger_than_its_picture_is_refused(
    received: Callable[..., Picture], classifier: Classifier
) -> None:
    assert received(tiled(100, 128)).prepared(classifier).max() == 0
    with pytest.raises(RefusedPicture, match=r"tiles have 25\.\d megapixels"):
        received(tiled(100, 5040))


# How much the peak of memory rises, in kB, with each file in turn; the last one is decoded in full, to show that it would be seen.
MEASURE = """
import json, re
from pathlib import Path
from PIL import Image
from torch import nn
from groundup.runs.load import Classifier
from groundup.ship.demo.picture import RefusedPicture, read_picture
classifier = Classifier(nn.Flatten(), ["cat", "dog"], 32, "squash", (0.5,) * 3, (0.2,) * 3)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
read_picture(Path("small.jpg"), "small.jpg").prepared(classifier)
forget = lambda: Path("/proc/self/clear_refs").write_text("5")
forget()
found, before = {}, peak()
for name in FILES:
    forget()
    try:
        read_picture(Path(name), name).prepared(classifier)
        said = "read"
    except RefusedPicture as refused:
        said = refused.message
    found[name] = (peak() - before, said)
forget()
Image.open("large.png").load()
found["control"] = (peak() - before, "")
print(json.dumps(found))
"""


# The most that each may take, in MB; 50 megapixels, but for those of 25 that are read.
MOST = {
    "large.png": 5,
    "progressive.jpg": 5,
    "scans.jpg": 5,
    "large.jpg": 30,
    "turned-rgba.png": 225,
    "grey-16.png": 175,
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_fifty_megapixels_take_little_memory(tmp_path: Path) -> None:
    image = Image.new("RGB", (8000, 6250), "orange")
    image.save(tmp_path / "large.png", compress_level=1)
    image.save(tmp_path / "progressive.jpg", progressive=True)
    image.save(tmp_path / "large.jpg")
    (tmp_path / "scans.jpg").write_bytes(scans(8000, 6250, together=False))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGBA", (5000, 5000), (255, 0, 0, 9)).save(tmp_path / "turned-rgba.png", compress_level=1, exif=exif)
    Image.new("I;16", (5000, 5000)).save(tmp_path / "grey-16.png", compress_level=1)
    gradient().save(tmp_path / "small.jpg")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.replace("FILES", str(tuple(MOST)))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    found = json.loads(done.stdout)
    for name in ("large.png", "progressive.jpg", "scans.jpg"):
        assert "50.0 megapixels; at most 25 are read" in found[name][1]
    for name in ("large.jpg", "turned-rgba.png", "grey-16.png"):
        assert found[name][1] == "read"
    taken = {name: kilobytes >> 10 for name, (kilobytes, _) in found.items()}
    assert all(taken[name] <= most for name, most in MOST.items()), taken
    assert taken["control"] > 150, taken
