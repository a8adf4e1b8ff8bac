"""Tar shards in the layout of the library webdataset: the files of one image have one name and different extensions.

    n01440764/0001.jpg   the image: jpg, jpeg, png, webp, gif, bmp, tif, ppm ...
    n01440764/0001.cls   its label, a number or a name; or .json with the label under "label"

The name ends at the first dot after the last slash. Only plain tar can be read at any place: compressed files are refused.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from groundup.basis.errors import DataError
from groundup.data.pixels.decode import EXTENSIONS
from groundup.data.shards.opening import OpenShard, Shard, damaged, open_whole
from groundup.data.shards.store import ShardStore
from groundup.data.sources import digest

Label = int | str
_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """An image in a tar file: where its bytes start, how many there are, and its label if labels were asked for."""

    start: int
    size: int
    label: Label | None


class TarLayout:
    """Opens tar shards. Where the images lie is found out once per file and kept in the store."""

    def open(self, shard: Shard, store: ShardStore) -> OpenShard:
        """See `Layout`."""
        descriptor = open_whole(shard, store)
        try:
            members = _places(store.open(f"{shard.key}.members", lambda path: _note_places(shard, descriptor, path)))
        except BaseException:
            os.close(descriptor)
            raise
        return OpenShard(descriptor, members[0], members[1])


def _note_places(shard: Shard, descriptor: int, path: Path) -> None:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        members = list(members_of(stream, shard, labels=False))
    places = np.array([[member.start, member.size] for member in members], dtype="<i8").reshape(-1, 2).T
    with open(path, "wb") as written:
        np.save(written, places, allow_pickle=False)


def _places(descriptor: int) -> np.ndarray:
    with os.fdopen(descriptor, "rb") as stream:
        return np.load(io.BytesIO(stream.read()), allow_pickle=False).astype(np.int64)


def labels_of(shard: Shard, store: ShardStore) -> tuple[list[Label], str]:
    """The labels of all images of a shard, in the order of the images; and a hash of where these lie, which nearly every other
    image would change."""
    with os.fdopen(open_whole(shard, store), "rb") as stream:
        labels, places = [], []
        for member in members_of(stream, shard, labels=True):
            assert member.label is not None
            labels.append(member.label)
            places.append([member.start, member.size])
        return labels, digest(places)


def members_of(stream: BinaryIO, shard: Shard, *, labels: bool) -> Iterator[Member]:
    """The images of a tar file in order. DataError names the shard if it ends early or an image has no label."""
    images: dict[str, tuple[int, int]] = {}
    found: dict[str, Label] = {}
    for name, start, size, read in _files(stream, shard):
        folder, slash, last = name.rpartition("/")
        stem, _, extension = last.partition(".")
        key = folder + slash + stem
        if f".{extension.lower()}" in EXTENSIONS:
            if key in images:
                raise damaged(shard, f"two images are called {key}")
            images[key] = (start, size)
        elif labels and extension.lower() in ("cls", "json") and key not in found:
            label = _label(read(), extension.lower())
            if label is not None:
                found[key] = label
    for key, (start, size) in images.items():
        if labels and key not in found:
            raise DataError(
                f"shard {shard.url}: image {key} has no label",
                hint=f"beside it belongs {key}.cls, or {key}.json with the label under 'label'",
            )
        yield Member(start, size, found.get(key))


def _label(content: bytes, extension: str) -> Label | None:
    try:
        text = content.decode().strip()
        value = json.loads(text).get("label") if extension == "json" else text
    except (ValueError, AttributeError):
        return None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else (value or None)
    return value if isinstance(value, int) else None


def _files(stream: BinaryIO, shard: Shard) -> Iterator[tuple[str, int, int, Callable[[], bytes]]]:
    """(name, start, bytes, what reads it) of every file in the archive, which has to be whole."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                    yield member.name, member.offset_data, member.size, _reader(stream, member.offset_data, member.size)
            end = archive.offset
    except tarfile.TarError as error:
        kind = "compressed tar files cannot be read at any place" if _is_compressed(stream) else str(error)
        raise damaged(shard, kind) from error
    # What ends a whole archive is a block of zeros; `tarfile` takes a file that was cut between two members for whole.
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise damaged(shard, "it ends before its end mark")


def _reader(stream: BinaryIO, start: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        back = stream.tell()
        stream.seek(start)
        content = stream.read(size)
        stream.seek(back)
        return content

    return read


def _is_compressed(stream: BinaryIO) -> bool:
    stream.seek(0)
    head = stream.read(6)
    return head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"))
