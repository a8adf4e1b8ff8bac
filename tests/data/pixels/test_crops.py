"""A window cut while decoding is the window of the whole image, whichever library decodes."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from groundup.data import UnreadableImage
from groundup.data.pixels import crops
from groundup.data.pixels.crops import cut, open_image, resized
from groundup.data.pixels.decode import decode_image, named_failures

FACTORS = (1, 2, 4, 8)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with edges, as a camera gives them: noise would be no fair test of a JPEG decoder's half sizes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **{"quality": 90, **settings})
    return stream.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(photograph(61, 43), exif=exif)


JPEGS = {
    "4:4:4": jpeg(photograph(500, 375), subsampling=0),
    "4:2:2": jpeg(photograph(333, 251), subsampling=1),
    "4:2:0": jpeg(photograph(500, 375), subsampling=2),
    "progressive": jpeg(photograph(101, 77), progressive=True),
    "grey": jpeg(photograph(64, 49).convert("L")),
    "CMYK": jpeg(photograph(64, 49).convert("CMYK")),
    "a pixel": jpeg(photograph(1, 1)),
    "narrow": jpeg(photograph(3, 90)),
    **{f"turned {orientation}": turned(orientation) for orientation in (1, 3, 6, 8)},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_both_decoders_give_the_same_pixels_at_every_scale(kind: str) -> None:
    fast, slow = open_image(JPEGS[kind]), open_image(JPEGS[kind], fast=False)
    assert (fast.height, fast.width) == (slow.height, slow.width)
    # No crop is so large that an image is reduced to less than a pixel.
    for factor in (factor for factor in FACTORS if factor <= min(fast.height, fast.width)):
        pixels = fast.pixels(factor)
        assert pixels.shape == (-(-fast.height // factor), -(-fast.width // factor), 3)
        np.testing.assert_array_equal(pixels, slow.pixels(factor))


@pytest.mark.parametrize("kind", JPEGS)
def test_the_whole_image_is_what_the_cache_would_hold(kind: str) -> None:
    opened = open_image(JPEGS[kind])
    np.testing.assert_array_equal(opened.pixels(1), decode_image(JPEGS[kind], kind, resolution=None))


def test_without_simplejpeg_everything_goes_on_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = cut(open_image(JPEGS["4:2:0"]), (10, 20, 300, 400), 64)
    monkeypatch.setattr(crops, "_simplejpeg", lambda: None)
    assert torch.equal(cut(open_image(JPEGS["4:2:0"]), (10, 20, 300, 400), 64), with_it)


@pytest.mark.parametrize("raw", [JPEGS["4:2:0"], np.asarray(photograph(500, 375))], ids=["JPEG", "array"])
@pytest.mark.parametrize("window", [(0, 0, 375, 500), (31, 77, 150, 131), (374, 499, 1, 1), (5, 6, 120, 120)])
def test_a_window_equals_pillows_crop_and_resize(raw: Any, window: tuple[int, int, int, int]) -> None:
    top, left, height, width = window
    whole = Image.fromarray(open_image(raw).pixels(1))
    expected = whole.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
    difference = cut(open_image(raw), window, 224).int() - torch.from_numpy(np.array(expected)).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("side", [150, 90, 40])  # decoded at a half, a quarter, an eighth
def test_a_window_decoded_smaller_is_nearly_the_window_of_the_whole_image(side: int) -> None:
    raw = jpeg(photograph(760, 740))
    opened, asked = open_image(raw), []

    def pixels(factor: int) -> np.ndarray:
        asked.append(factor)
        return open_image(raw).pixels(factor)

    window = (13, 21, 721, 733)
    small = cut(crops.Opened(opened.height, opened.width, pixels, reducible=True), window, side)
    assert asked == [{150: 4, 90: 8, 40: 8}[side]]
    whole = resized(torch.from_numpy(opened.pixels(1))[13:734, 21:754], side)
    difference = (small.int() - whole.int()).abs().float()
    # Half an output pixel of place, and the decoder's own filter.
    assert difference.mean() < 3
    assert difference.quantile(0.99) < 16


def test_a_window_less_than_twice_as_large_is_decoded_whole() -> None:
    asked = []

    def pixels(factor: int) -> np.ndarray:
        asked.append(factor)
        return open_image(JPEGS["4:2:0"]).pixels(factor)

    image = crops.Opened(375, 500, pixels, reducible=True)
    cut(image, (0, 0, 255, 500), 128)
    cut(image, (0, 0, 256, 256), 128)
    cut(image, (0, 0, 256, 256), 128, "nearest")
    assert asked == [1, 2, 1]


def test_nearest_takes_pixels_of_the_window_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = cut(open_image(image), (3, 4, 8, 8), 16, "nearest").numpy()
    np.testing.assert_array_equal(found, image[3:11, 4:12].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"junk", "not an image"),
        (JPEGS["4:2:0"][:3000], "truncated"),
        (JPEGS["4:2:0"][:100], "not an image|Truncated"),
    ],
)
def test_a_damaged_image_is_named_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=rf"cat\.jpg: .*({reason})"), named_failures("cat.jpg"):
        cut(open_image(raw), (0, 0, 10, 10), 8)


def test_a_huge_image_is_refused_before_its_pixels_are_read() -> None:
    header = bytearray(JPEGS["4:4:4"])
    place = header.index(b"\xff\xc0") + 5
    header[place : place + 4] = (20_000).to_bytes(2, "big") * 2
    with pytest.raises(ValueError, match="20000x20000 pixels; at most"):
        open_image(bytes(header))


def test_what_one_decoder_refuses_and_the_other_reads_does_not_depend_on_the_decoder() -> None:
    """Damage in the middle: bytes of the picture exchanged. What comes out, or fails, is Pillow's judgement."""
    for seed in range(40):
        raw = bytearray(JPEGS["4:2:0"])
        places = np.random.default_rng(seed).integers(600, len(raw), 3)
        for place in places:
            raw[place] ^= 1 << (seed % 8)
        outcomes = []
        for fast in (True, False):
            try:
                outcomes.append(open_image(bytes(raw), fast=fast).pixels(1))
            except (OSError, ValueError, SyntaxError) as error:
                outcomes.append(np.array(str(error)))
        np.testing.assert_array_equal(*outcomes)
