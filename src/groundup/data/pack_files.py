"""What packing writes: encoded images, and the two kinds of shard. Nothing in them depends on when or where they are written."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundup.basis.errors import DataError
from groundup.data.pixels.decode import named_failures, to_rgb
from groundup.data.sources import RawImage

_ROWS = 100  # of a Parquet file that are compressed together, as on the Hub
# How files of each kind begin -> their extension.
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    *((b"P%d" % number, "ppm") for number in range(1, 7)),
)


@dataclass(frozen=True)
class Sample:
    """An encoded image, the extension that says how, the number of its class, and a name of its own in its split."""

    key: str
    content: bytes
    extension: str
    label: int


def encoded(raw: RawImage, name: str, resolution: int | None, quality: int) -> tuple[bytes, str]:
    """The image as bytes, and their extension. Bytes stay as they are, pixels become PNG; with `resolution` an image whose shorter
    side is larger is brought to that side and becomes JPEG. UnreadableImage names an image that has to be decoded and cannot."""
    if isinstance(raw, Path):
        with named_failures(name):
            raw = raw.read_bytes()
    if isinstance(raw, bytes):
        extension = _extension(raw, name)
        smaller = None if resolution is None else _smaller(raw, name, resolution, quality)
        return (smaller, "jpg") if smaller is not None else (raw, extension)
    if resolution is not None and (smaller := _smaller(raw, name, resolution, quality)) is not None:
        return smaller, "jpg"
    with named_failures(name):
        image = raw if isinstance(raw, Image.Image) else Image.fromarray(_plain(raw))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue(), "png"


def _plain(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _extension(content: bytes, name: str) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    for magic, extension in _MAGIC:
        if content.startswith(magic):
            return extension
    raise DataError(f"{name}: not an image in a format that can be packed", hint="remove it, or convert it to PNG")


def _smaller(raw: RawImage, name: str, side: int, quality: int) -> bytes | None:
    """The image with its shorter side at `side` px, as JPEG; None if it is not larger."""
    with named_failures(name):
        image = to_rgb(raw, (2 * side, 2 * side))
        shorter = min(image.size)
        if shorter <= side:
            return None
        size = (max(side, round(image.width * side / shorter)), max(side, round(image.height * side / shorter)))
        stream = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        return stream.getvalue()


class TarShard:
    """A tar file of samples. `size`: bytes so far."""

    def __init__(self, path: Path, classes: list[str]) -> None:
        self._stream = open(path, "wb")  # noqa: SIM115  closed by `close`
        self._archive = tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.USTAR_FORMAT)
        self.size = 0

    def add(self, sample: Sample) -> None:
        """Write one sample."""
        for extension, content in ((sample.extension, sample.content), ("cls", str(sample.label).encode())):
            entry = tarfile.TarInfo(f"{sample.key}.{extension}")
            entry.size = len(content)
            self._archive.addfile(entry, io.BytesIO(content))
        self._archive.members.clear()  # type: ignore[attr-defined]  # it would remember every one
        self.size = self._archive.offset

    def close(self) -> None:
        """Write what ends the file."""
        self._archive.close()
        self._stream.close()


class ParquetShard:
    """A Parquet file of samples, columns `image` (struct of bytes and path) and `label` with the class names."""

    def __init__(self, path: Path, classes: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
        described = json.dumps({"info": {"features": features}})
        self._image: Any = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        self._schema = pa.schema([("image", self._image), ("label", pa.int64())], metadata={"huggingface": described})
        # Images are compressed already.
        self._writer = pq.ParquetWriter(path, self._schema, compression="none", use_dictionary=False)
        self._rows: list[Sample] = []
        self.size = 0

    def add(self, sample: Sample) -> None:
        """Write one sample."""
        self._rows.append(sample)
        self.size += len(sample.content)
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what ends the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            images = [{"bytes": row.content, "path": f"{row.key}.{row.extension}"} for row in self._rows]
            columns = [pa.array(images, type=self._image), pa.array([row.label for row in self._rows], type=pa.int64())]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
            self._rows.clear()
