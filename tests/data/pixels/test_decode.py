"""Images of every mode become upright RGB; damaged ones are named; resizing follows the policy."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundup.data import UnreadableImage, decode_image
from groundup.data.pixels.decode import MAX_PIXELS


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def decoded(raw: bytes | np.ndarray | Image.Image | Path) -> np.ndarray:
    return decode_image(raw, "image", resolution=None)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_comes_back_exactly(picture: Callable[..., np.ndarray], kind: str) -> None:
    array = picture(0, 7, 5)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(array), kind)), array)


def test_lossless_webp_comes_back_exactly(picture: Callable[..., np.ndarray]) -> None:
    array = picture(0, 7, 5)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(array), "WEBP", lossless=True)), array)


def test_grey_is_repeated_in_the_three_channels(picture: Callable[..., np.ndarray]) -> None:
    grey = picture(1)[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey))), expected)
    np.testing.assert_array_equal(decoded(grey), expected)
    np.testing.assert_array_equal(decoded(grey[:, :, None]), expected)


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(deep))), expected)
    np.testing.assert_array_equal(decoded(deep), expected)


def test_palette_images_show_their_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decoded(encoded(image)), [[[10, 20, 30], [200, 100, 50]]])


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = decoded(encoded(red, "JPEG"))[4, 4]
    assert pixel[0] > 240
    assert pixel[1] < 15
    assert pixel[2] < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    result = decoded(encoded(image.convert(mode)))[0, :, 0]
    assert result.tolist() == [255, 0, 127]


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decoded(encoded(image, transparency=0)), [[[255, 255, 255], [200, 100, 50]]])


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
def test_exif_rotation_is_applied(picture: Callable[..., np.ndarray], orientation: int, turns: int) -> None:
    array = picture(2, 7, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(Image.fromarray(array), exif=exif)
    np.testing.assert_array_equal(decoded(raw), np.rot90(array, turns))
    np.testing.assert_array_equal(decoded(Image.open(io.BytesIO(raw))), np.rot90(array, turns))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16"])
def test_what_is_converted_and_turned_in_strips_is_as_if_it_were_done_at_once(
    picture: Callable[..., np.ndarray], mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = Image.fromarray(picture(4, 23, 17))
    image = (
        Image.fromarray(picture(4, 23, 17)[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)
    )
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture(5, 23, 17)[:, :, 1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(image, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    at_once = decoded(raw)
    monkeypatch.setattr("groundup.data.pixels.decode._STRIP", 100)  # five rows
    np.testing.assert_array_equal(decoded(raw), at_once)


def test_a_damaged_exif_block_does_not_make_an_image_unreadable(picture: Callable[..., np.ndarray]) -> None:
    array = picture(3)
    raw = encoded(Image.fromarray(array), exif=b"Exif\0\0MM\0*\xff\xff")
    np.testing.assert_array_equal(decoded(raw), array)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_truncated_image_is_an_error_that_names_it(
    picture: Callable[..., np.ndarray], kind: str, share: float
) -> None:
    raw = encoded(Image.fromarray(picture(4, 64, 64)), kind)
    with pytest.raises(UnreadableImage, match=r"^cats/tom\.png: .+") as caught:
        decode_image(raw[: int(len(raw) * share)], "cats/tom.png", resolution=None)
    assert "data.on_bad_image=skip" in str(caught.value)
    assert "0x" not in caught.value.reason


def test_bytes_that_are_no_image_are_an_error() -> None:
    with pytest.raises(UnreadableImage, match="not an image in a format that Pillow reads"):
        decoded(b"<html>not found</html>")


def test_a_missing_file_is_an_error_without_its_full_path(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decoded(tmp_path / "gone.png")
    assert caught.value.reason == "No such file or directory"


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_an_image_that_would_unpack_to_gigabytes_is_refused_from_its_header(side: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, pixels)
    ]
    raw = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    assert side * side > MAX_PIXELS
    with pytest.raises(UnreadableImage, match="pixels"):
        decoded(raw)


def test_float_arrays_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(UnreadableImage, match=r"float64 \(4, 4, 3\); allowed: uint8"):
        decoded(np.zeros((4, 4, 3)))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (3, 2), (8, 8), (1, 300)])
def test_every_policy_gives_a_square_of_the_resolution(
    picture: Callable[..., np.ndarray], resize: str, size: tuple[int, int]
) -> None:
    result = decode_image(picture(5, *size), "x", resolution=8, resize=resize)  # type: ignore[arg-type]
    assert result.shape == (8, 8, 3)
    assert result.dtype == np.uint8


def bars() -> np.ndarray:
    """24x8: red, green and blue squares side by side."""
    array = np.zeros((8, 24, 3), dtype=np.uint8)
    for index in range(3):
        array[:, 8 * index : 8 * index + 8, index] = 255
    return array


def test_crop_keeps_the_middle_square() -> None:
    result = decode_image(bars(), "x", resolution=8, resize="crop")
    np.testing.assert_array_equal(result, bars()[:, 8:16])


def test_pad_keeps_the_aspect_ratio_between_black_borders() -> None:
    result = decode_image(bars(), "x", resolution=24, resize="pad")
    np.testing.assert_array_equal(result[8:16], bars())
    assert not result[:8].any()
    assert not result[16:].any()


def test_squash_uses_the_whole_image() -> None:
    result = decode_image(bars(), "x", resolution=6, resize="squash")
    assert result[3].argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2]


def test_shrinking_is_antialiased() -> None:
    checkerboard = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    result = decode_image(checkerboard, "x", resolution=8)
    assert np.abs(result.astype(int) - 127).max() <= 4


def test_a_jpeg_reduced_by_its_decoder_looks_like_one_reduced_from_full_size() -> None:
    gradient = np.add.outer(np.arange(256), np.arange(256))[:, :, None] // 2 * np.ones(3)
    raw = encoded(Image.fromarray(gradient.astype(np.uint8)), "JPEG", quality=95)
    reduced = decode_image(raw, "x", resolution=16).astype(int)
    full = np.asarray(Image.open(io.BytesIO(raw)).resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(reduced - full).max() <= 3
