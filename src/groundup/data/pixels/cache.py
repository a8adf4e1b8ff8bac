"""Every source is decoded once, into uint8 arrays on disk that runs open memory-mapped and read-only.

With data.cache=none the pixels are not written: everything is decoded once to be checked and hashed, and an index says
which images are whole; `on_demand.py` decodes them again for each batch.

    <cache home>/<key>/meta.json                format, classes, counts, file sizes, skipped images, notes, content hash
    <cache home>/<key>/<split>/images.npy       uint8 (N, H, W, 3)
    <cache home>/<key>/<split>/labels.npy       int64 (N,)
    <cache home>/<key>-index/                   the same with <split>/kept.npy, int64 (N,) positions in the source, for images.npy

The key is a hash of the source's fingerprint and of the settings that change what is decoded, so a changed source
gets a new folder. A folder appears whole or not at all: it is built beside, synced and renamed, under a file lock
that lets one of several runs build. Memory stays small whatever the data: images are written as they are decoded, a
few hundred at most are in flight.
"""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.basis.files import cache_home, fsync_folder, write_json
from groundup.data.pixels.decode import UnreadableImage, decode_image, decode_threads
from groundup.data.pixels.on_demand import Pixels, SourceImages
from groundup.data.settings import DataSettings
from groundup.data.sources import Contents, RawImage, Source, SourceSplit, SplitName, digest

FORMAT = 1
_CHUNK = 32  # images per task of the thread pool at most; `check` is called once per task
_CHUNK_BYTES = 4 << 20  # decoded images per task at most, so that large images do not fill the memory
_HEADER_BYTES = 128
_Progress = Callable[[int, int], None]
_OpenImages = Callable[[SplitName, Path, list[int]], Pixels]  # split, its folder, shape of its images


@dataclass(frozen=True)
class CachedSplit:
    """Images, uint8 (N, H, W, 3), memory-mapped or decoded when they are asked for; labels int64 (N,)."""

    images: Pixels
    labels: np.ndarray


@dataclass(frozen=True)
class Cached:
    """A decoded source. `fingerprint` hashes the decoded images, labels and class names: the same on every machine."""

    classes: list[str]
    splits: dict[SplitName, CachedSplit]
    skipped: dict[str, str]
    notes: list[str]
    fingerprint: str


def open_cached(
    source: Source, settings: DataSettings, check: Callable[[], None], progress: _Progress | None
) -> Cached:
    """The decoded images of `source`, decoding them first if they are not in the cache or it is damaged."""
    source = replace(source, read=functools.cache(source.read))
    indexed = settings.cache == "none"
    folder = cache_home() / (cache_key(source, settings) + ("-index" if indexed else ""))
    images = functools.partial(_on_demand, source, settings) if indexed else _mapped
    if cached := _open(folder, images):
        return cached
    with _writing(folder), locked(folder, check):
        if cached := _open(folder, images):  # another run built it while this one waited
            return cached
        for leftover in (folder, *folder.parent.glob(f".{folder.name}.*")):  # damaged, or of a run that was killed
            _remove(leftover)
        _build(folder, source, settings, check, progress)
    cached = _open(folder, images)
    if cached is None:
        raise DataError(
            f"the decoded images in {folder} changed while they were opened", hint="remove that folder and try again"
        )
    return cached


def cache_key(source: Source, settings: DataSettings) -> str:
    """The name of the folder: it covers what changes the decoded images, not how they are split."""
    resize = settings.resize if settings.resolution else None
    decoding = [settings.image, settings.label, settings.resolution, resize, settings.on_bad_image]
    return f"{settings.kind}-{digest([FORMAT, source.fingerprint, decoding])}"


def _open(folder: Path, images: _OpenImages) -> Cached | None:
    """The cache in `folder`, or None if it is not there or not what its meta.json says."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or any(
            (folder / name).stat().st_size != size for name, size in meta["files"].items()
        ):
            return None
        splits = {split: _open_split(split, folder / split, shape, images) for split, shape in meta["splits"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Cached(meta["classes"], splits, meta["skipped"], meta["notes"], meta["fingerprint"])


def _open_split(split: SplitName, folder: Path, shape: list[int], open_images: _OpenImages) -> CachedSplit:
    images = open_images(split, folder, shape)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    if list(images.shape) != shape or labels.shape != images.shape[:1]:
        raise ValueError("shapes differ from meta.json")
    return CachedSplit(images, labels)


def _mapped(split: SplitName, folder: Path, shape: list[int]) -> Pixels:
    mapped: np.ndarray = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return mapped


def _on_demand(source: Source, settings: DataSettings, split: SplitName, folder: Path, shape: list[int]) -> Pixels:
    kept = np.load(folder / "kept.npy", allow_pickle=False)
    return SourceImages(source, source.read().splits[split], kept, settings, tuple(shape[1:]))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a failed write into an error that says what to do. Reading and decoding raise errors of their own."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"the decoded images could not be written to {folder.parent}: {error.strerror or error}",
            hint="make room there, or point GROUNDUP_CACHE at a folder on another disk",
        ) from error


@contextlib.contextmanager
def locked(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """Only one of several processes is inside at a time; the others call `check` while they wait. The lock lies beside `path`."""
    from filelock import FileLock, Timeout

    lock = FileLock(str(path) + ".lock")
    while True:
        check()
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _build(
    folder: Path, source: Source, settings: DataSettings, check: Callable[[], None], progress: _Progress | None
) -> None:
    contents = source.read()
    splits, notes = labelled(contents, source)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        writer = _Writer(temporary, source, settings, sum(map(len, splits.values())), check, progress)
        shapes = {name: writer.write(name, split) for name, split in splits.items()}
        meta = {
            "format": FORMAT,
            "fingerprint": writer.fingerprint(contents.classes),
            "classes": contents.classes,
            "splits": shapes,
            "files": {
                str(file.relative_to(temporary)): file.stat().st_size for file in sorted(temporary.rglob("*.npy"))
            },
            "skipped": writer.skipped,
            "notes": notes,
        }
        write_json(temporary / "meta.json", meta)
        for inside in (*(temporary / name for name in shapes), temporary):
            fsync_folder(inside)
        os.rename(temporary, folder)
        fsync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def labelled(contents: Contents, source: Source) -> tuple[dict[SplitName, SourceSplit], list[str]]:
    """The splits that have labels, checked. One without any label (hidden test labels) is left out with a note."""
    classes, notes = contents.classes, list(contents.notes)
    if len(classes) < 2:
        raise DataError(f"a classifier needs at least 2 classes; the data has {len(classes)}: {listed(classes)}")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise DataError(f"class names appear twice: {listed(twice)}")
    splits: dict[SplitName, SourceSplit] = {}
    for name, split in contents.splits.items():
        if len(split) == 0 or (split.labels < 0).all():
            notes.append(
                f"the {name} split of the source has no {'labels' if len(split) else 'images'} and is not used"
            )
            continue
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
        if len(wrong):
            where = source.located(split.name(int(wrong[0])))
            raise DataError(
                f"{where}: label {split.labels[wrong[0]]} is outside 0..{len(classes) - 1} "
                f"({len(wrong)} such labels in {name})"
            )
        splits[name] = split
    if "train" not in splits:
        raise DataError("the training split has no labelled images")
    return splits, notes


class _Writer:
    """Decodes splits in a pool of threads and writes them in order."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        settings: DataSettings,
        total: int,
        check: Callable[[], None],
        progress: _Progress | None,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self._folder, self._source, self._settings = folder, source, settings
        self._indexes = settings.cache == "none"
        self._total, self._done = total, 0
        self._check, self._progress = check, progress
        self._hash = hashlib.sha256()
        self._first: tuple[str, tuple[int, ...]] | None = None  # name and shape of the first image
        self._image_bytes = 3 * settings.resolution**2 if settings.resolution else 0  # 0: not yet known
        self._check_room()

    def write(self, split_name: SplitName, split: SourceSplit) -> list[int]:
        """Decode one split into its files; the shape of the images."""
        folder = self._folder / split_name
        folder.mkdir()
        if self._indexes:
            kept = self._decode_all(split_name, split, lambda pixels: None)
            _save(folder / "kept.npy", np.array(kept, dtype="<i8"))
        else:
            # A stream, not a memory map: a full disk is then an error, not a SIGBUS that kills the process.
            with open(folder / "images.npy", "wb") as stream:
                stream.write(bytes(_HEADER_BYTES))
                kept = self._decode_all(split_name, split, stream.write)
                stream.seek(0)
                stream.write(_npy_header(self._shape(kept)))
                _sync(stream)
        labels = split.labels[kept].astype("<i8")
        self._hash.update(labels.data)
        _save(folder / "labels.npy", labels)
        return self._shape(kept)

    def _decode_all(self, split_name: SplitName, split: SourceSplit, write: Callable[[memoryview], Any]) -> list[int]:
        """Check, `write` and hash the images of a split in order; the positions of those that are whole."""
        kept: list[int] = []
        for index, decoded in enumerate(self._decoded(split)):
            if isinstance(decoded, UnreadableImage):
                self._skip(split.name(index), decoded)
                continue
            self._check_size(split.name(index), decoded)
            write(decoded.data)
            self._hash.update(decoded.data)
            kept.append(index)
        if not kept:
            raise DataError(f"none of the {len(split)} images of {split_name} can be read", hint=self._example())
        return kept

    def _shape(self, kept: list[int]) -> list[int]:
        assert self._first is not None
        return [len(kept), *self._first[1]]

    def fingerprint(self, classes: list[str]) -> str:
        """The hash of all that was written."""
        self._hash.update(json.dumps(classes).encode())
        return self._hash.hexdigest()[:32]

    def _decoded(self, split: SourceSplit) -> Iterator[np.ndarray | UnreadableImage]:
        """The images of `split` in order. `check` and `progress` are called once per task."""
        threads = decode_threads()
        images = split.images()
        waiting: deque[Future[list[np.ndarray | UnreadableImage]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="groundup-decode")
        try:
            start = 0
            while True:
                while len(waiting) < 3 * threads and (chunk := list(islice(images, self._chunk()))):
                    names = [self._source.located(split.name(start + offset)) for offset in range(len(chunk))]
                    waiting.append(pool.submit(_decode_chunk, chunk, names, self._settings))
                    start += len(chunk)
                if not waiting:
                    break
                self._check()
                results = waiting.popleft().result()
                yield from results
                self._done += len(results)
                if self._progress:
                    self._progress(self._done, self._total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if start != len(split):
            raise DataError(f"the source gave {start} images for {len(split)} labels; did it change while it was read?")

    def _chunk(self) -> int:
        return min(_CHUNK, max(1, _CHUNK_BYTES // max(1, self._image_bytes)))

    def _skip(self, name: str, error: UnreadableImage) -> None:
        if self._settings.on_bad_image == "fail":
            raise error
        self.skipped[name] = error.reason

    def _example(self) -> str | None:
        return next((f"for example {name}: {reason}" for name, reason in self.skipped.items()), None)

    def _check_size(self, name: str, image: np.ndarray) -> None:
        located = self._source.located(name)
        if self._first is None:
            if image.shape[0] != image.shape[1]:
                raise DataError(
                    f"{located} is {_size(image.shape)} pixels, not square",
                    hint="set data.resolution (and data.resize) to bring the images to one size",
                )
            self._first = located, image.shape
            self._image_bytes = image.nbytes
            self._check_room()
        elif image.shape != self._first[1]:
            raise DataError(
                f"the images have different sizes: {self._first[0]} is {_size(self._first[1])}, "
                f"{located} is {_size(image.shape)}",
                hint="set data.resolution (and data.resize) to bring the images to one size",
            )

    def _check_room(self) -> None:
        if self._indexes:
            return
        needed = self._total * self._image_bytes
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DataError(
                f"the decoded images need {needed / 1e9:.1f} GB, {self._folder.parent} has {free / 1e9:.1f} GB left",
                hint="make room there, point GROUNDUP_CACHE at another disk, set data.cache=none or a smaller data.resolution",
            )


def _decode_chunk(
    chunk: list[RawImage], names: list[str], settings: DataSettings
) -> list[np.ndarray | UnreadableImage]:
    results: list[np.ndarray | UnreadableImage] = []
    for raw, name in zip(chunk, names, strict=True):
        try:
            image = decode_image(raw, name, resolution=settings.resolution, resize=settings.resize)
            results.append(np.ascontiguousarray(image))
        except UnreadableImage as error:
            results.append(error)
    return results


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _npy_header(shape: list[int]) -> bytes:
    """The header of a uint8 .npy file (format 1.0), padded to a fixed length because the count is known last."""
    fields: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    text = repr(fields).encode("latin1").ljust(_HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _save(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as stream:
        np.save(stream, array)
        _sync(stream)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
