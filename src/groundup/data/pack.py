"""Packing: the images of any source into shuffled shards with checksums, as they are encoded, or smaller.

Out: DEST/train-000000.tar (or .parquet) and so on per split, and `index.json` (see `shards.index`). The order is a permutation by
seed, of a source in shards its windowed order. The same call gives the same bytes (with the same versions of pyarrow and Pillow).
Each shard appears whole or not at all; what is finished stands in `.packing.jsonl` until the index is written. So a call that was
killed is repeated, and goes on with the shard at which it stopped.

In a tar a sample is KEY.jpg (png, webp ...) and KEY.cls with the number of its class; in Parquet it is a row (image, label) as
the Hub lays them out, readable by the library `datasets`.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.files import sha256, whole_file
from groundup.basis.seeding import permutation
from groundup.data.doors import DOORS
from groundup.data.pack_files import ParquetShard, Sample, TarShard, encoded
from groundup.data.pixels.cache import labelled
from groundup.data.pixels.crops import open_image
from groundup.data.pixels.decode import UnreadableImage, decode_threads, named_failures
from groundup.data.settings import DataSettings
from groundup.data.shards.index import KINDS, NAME, Entry, ShardIndex
from groundup.data.shards.windows import WindowedOrder
from groundup.data.sources import Source, SourceSplit, SplitName

Format = Literal["parquet", "tar"]
PROGRESS_FILE, LOCK_FILE = ".packing.jsonl", ".packing.lock"
_AT_ONCE = 256  # images read together
_TIMED = 64  # images whose decoding is timed
_WRITERS: dict[str, type[TarShard] | type[ParquetShard]] = {"tar": TarShard, "parquet": ParquetShard}


@dataclass(frozen=True)
class PackSettings:
    """`shard_mb`: size of a shard in MB (10^6 bytes), reached by its last image; `shuffle`: else the images stay in the order of
    the source; `resolution`: shorter side in px of images that
    are larger, which are then encoded again as JPEG of `quality` (1..95); None: every image stays as it is."""

    format: Format = "tar"
    shard_mb: float = 256.0
    seed: int = 0
    shuffle: bool = True
    resolution: int | None = None
    quality: int = 90

    def __post_init__(self) -> None:
        if self.format not in _WRITERS:
            raise UsageError(f"--format {self.format}: allowed: {', '.join(_WRITERS)}")
        for name, value, low, high in (
            ("--shard-mb", self.shard_mb, 0.01, 100_000),
            ("--resolution", self.resolution, 1, 16_384),
            ("--quality", self.quality, 1, 95),
        ):
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} {value}: allowed are {low} to {high}")


def source_settings(source: str, **others: Any) -> DataSettings:
    """What to pack; `others` are keys of `DataSettings`. UsageError says what is wrong with it."""
    try:
        return DataSettings(source=source, **others)
    except ValidationError as error:
        said = "; ".join(
            " ".join([*(f"--{key}".replace("_", "-") for key in entry["loc"] if key in others), entry["msg"]])
            for entry in error.errors()
        )
        raise UsageError(f"SOURCE {source}: {said.replace('Value error, ', '')}") from error


def pack(
    data: DataSettings,
    dest: Path,
    settings: PackSettings,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> ShardIndex:
    """Pack the source of `data` into `dest`; the index that was written. UsageError if something else lies there.

    `check` may raise to interrupt between images; `progress(done, total)` counts images.
    """
    source = DOORS[data.kind](data, check)
    made = {"source": source.fingerprint, "image": data.image, "label": data.label, **asdict(settings)}
    if data.streaming and settings.shuffle:
        made["shuffle_window"] = data.shuffle_window
    place = _Place(dest, made)
    with place.locked():
        if (finished := place.finished()) is not None:
            return finished
        if source.prepare:
            source.prepare(None)
        return _pack(source, place, dest, settings, data.shuffle_window, check, progress)


def decoded_per_second(index: ShardIndex, dest: Path) -> float | None:
    """How many of the packed images one thread decodes in a second, whole, by some of the first; None if none can be decoded."""
    try:
        data = source_settings(f"{KINDS[index.kind]}:{dest}")
        some = list(islice(DOORS[data.kind](data, lambda: None).read().splits["train"].images(), _TIMED))
    except GroundupError:  # what was packed is whole all the same
        return None
    decoded, started = 0, time.perf_counter()
    for raw in some:
        with contextlib.suppress(UnreadableImage), named_failures(""):
            open_image(raw).pixels(1)
            decoded += 1
    return decoded / (time.perf_counter() - started) if decoded else None


def _pack(
    source: Source,
    place: "_Place",
    dest: Path,
    settings: PackSettings,
    window: int,
    check: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> ShardIndex:
    """Pack what is not packed yet."""
    contents = source.read()
    splits, _ = labelled(contents, source)
    total, done = sum(map(len, splits.values())), 0
    shards: dict[SplitName, list[Entry]] = {}
    for split, images in splits.items():
        known = place.entries(split)
        start = sum(len(entry.labels) for entry in known)
        done += start
        samples = _samples(images, split, start, source, settings, window)
        while start < len(images):
            entry = _write(
                dest, f"{split}-{len(known):06d}.{settings.format}", samples, contents.classes, settings, check
            )
            place.note(split, entry)
            known.append(entry)
            start += len(entry.labels)
            done += len(entry.labels)
            if progress:
                progress(done, total)
        shards[split] = known
    index = ShardIndex(settings.format, contents.classes, shards, place.made)
    index.write(dest / NAME)
    place.close()
    return index


def _write(
    dest: Path,
    name: str,
    samples: Iterator[Sample],
    classes: list[str],
    settings: PackSettings,
    check: Callable[[], None],
) -> Entry:
    """Fill one shard from `samples`."""
    labels: list[int] = []
    with whole_file(dest / name) as temporary:
        shard = _WRITERS[settings.format](temporary, classes)
        try:
            for sample in samples:
                shard.add(sample)
                labels.append(sample.label)
                if shard.size >= settings.shard_mb * 1e6:
                    break
                if len(labels) % _AT_ONCE == 0:
                    check()
        finally:
            shard.close()
        check()
        size, checksum = temporary.stat().st_size, sha256(temporary)
    return Entry(name, size, checksum, np.array(labels, dtype=np.int64))


def _samples(
    images: SourceSplit, split: SplitName, start: int, source: Source, settings: PackSettings, window: int
) -> Iterator[Sample]:
    """The samples of a split in their packed order, from place `start` on."""
    places = _order(images, split, settings, window)

    def sample(position: int, raw: Any, place: int) -> Sample:
        name = source.located(images.name(position))
        content, extension = encoded(raw, name, settings.resolution, settings.quality)
        return Sample(f"{place:09d}", content, extension, int(images.labels[position]))

    with ThreadPoolExecutor(decode_threads(), thread_name_prefix="groundup-pack") as pool:
        for first in range(start, len(images), _AT_ONCE):
            chosen = places(first, min(first + _AT_ONCE, len(images))).numpy()
            numbers = range(first, first + len(chosen))
            yield from pool.map(sample, chosen.tolist(), images.at(chosen), numbers)


def _order(
    images: SourceSplit, split: SplitName, settings: PackSettings, window: int
) -> Callable[[int, int], torch.Tensor]:
    if not settings.shuffle:
        return torch.arange
    if images.shards is not None:
        windows = WindowedOrder(images.shards.starts, window, images.shards.soon)
        return lambda first, last: windows.places(settings.seed, 0, first, last)
    order = permutation(len(images), settings.seed, "pack", split)
    return lambda first, last: order[first:last]


class _Place:
    """The folder that is packed into, and what of it is finished. `made`: what the shards are made of and how."""

    def __init__(self, folder: Path, made: dict[str, Any]) -> None:
        self._folder, self.made = folder, made
        self._file, self._lock = folder / PROGRESS_FILE, folder / LOCK_FILE
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file, not a folder")
        known = any((folder / name).exists() for name in (PROGRESS_FILE, NAME, LOCK_FILE))
        if not known and folder.exists() and any(folder.iterdir()):
            raise UsageError(
                f"{folder}: is not empty, and nothing was packed into it", hint="choose another folder for the shards"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else packs into the folder meanwhile. The lock ends with the process, however that ends."""
        from filelock import FileLock, Timeout

        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._lock, timeout=0):
                try:
                    yield
                finally:
                    if not self._file.exists():  # nothing is half done
                        self._lock.unlink(missing_ok=True)
        except Timeout as error:
            raise UsageError(
                f"{self._folder}: another `groundup data pack` is writing into it",
                hint="wait until it has ended, or choose another folder",
            ) from error

    def finished(self) -> ShardIndex | None:
        """The index, if the same call has come to its end before. Without those shards that are gone or cut since: these and what
        comes after them are then to be packed again."""
        path = self._folder / NAME
        if not path.exists():
            return None
        index = ShardIndex.parse(path.read_bytes(), str(path))
        self._refuse_other(index.made)
        if all(self._is_whole(entry) for entries in index.splits.values() for entry in entries):
            self.close()
            return index
        self._file.unlink(missing_ok=True)
        self._append(self.made)
        for split, entries in index.splits.items():
            for entry in entries:
                self.note(split, entry)
        path.unlink()
        return None

    def entries(self, split: SplitName) -> list[Entry]:
        """The finished shards of a split, up to one that is gone or cut."""
        lines = self._lines()
        if not lines:
            self._append(self.made)
            return []
        self._refuse_other(lines[0])
        # Of a shard that was packed again the last line counts.
        noted = {line["name"]: Entry.from_json(line) for line in lines[1:] if line["split"] == split}
        return list(takewhile(self._is_whole, (noted[name] for name in sorted(noted))))

    def _is_whole(self, entry: Entry) -> bool:
        path = self._folder / entry.name
        return path.is_file() and path.stat().st_size == entry.size

    def note(self, split: SplitName, entry: Entry) -> None:
        """Remember a finished shard."""
        self._append({"split": split, **entry.to_json()})

    def close(self) -> None:
        """The index is written: what was noted on the way is of no use any more."""
        for left in (self._file, *self._folder.glob(".*.tmp")):
            left.unlink(missing_ok=True)

    def _refuse_other(self, made: dict[str, Any]) -> None:
        differing = [key for key in self.made if made.get(key) != self.made[key]]
        if differing:
            said = ", ".join(f"{key} was {made.get(key)!r}, is {self.made[key]!r}" for key in differing)
            raise UsageError(f"{self._folder}: something else was packed there: {said}", hint="choose another folder")

    def _lines(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        if whole != content:
            self._file.write_bytes(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: dict[str, Any]) -> None:
        with open(self._file, "ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
