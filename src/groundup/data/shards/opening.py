"""Images that lie in shards: files of some hundred MB each, read one window of shards after the other.

Every image has a number: where its shard starts, plus its place in the shard. So a stream is asked for images by number like
any other source, and its order is a function of (seed, epoch, number of images per shard) alone.

A shard is opened when the first of its images is wanted: checked against its checksum if there is one, fetched if it is far
away, and its images located. Then each image is one read at its place. Some shards stay open; nothing of them is in memory
but where their images lie (16 bytes per image).
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from groundup.basis.errors import DataError
from groundup.basis.files import sha256, write_bytes
from groundup.data.shards.remote import FileFacts, facts, fetch, is_remote, missing
from groundup.data.shards.store import ShardStore
from groundup.data.sources import RawImage, ShardPlaces, SourceSplit, digest

_ASKED_AT_ONCE = 64  # files described between two checks for an interruption
_TOGETHER = 4  # shards that are opened at once: several downloads use a line better than one


@dataclass(frozen=True)
class Shard:
    """One file. `count`: its images; `size`: bytes; `sha256`: hex, where it is known; `stamp`: changes when the file does."""

    name: str
    url: str
    size: int
    count: int
    stamp: str = ""
    sha256: str | None = None

    @property
    def key(self) -> str:
        """A name for what is kept of it on this machine."""
        return digest([self.sha256] if self.sha256 else [self.url, self.size, self.stamp])


class OpenShard:
    """An open file and where its images lie in it: `starts`, `sizes` int64 (count,) in bytes."""

    def __init__(self, descriptor: int, starts: np.ndarray, sizes: np.ndarray) -> None:
        self._descriptor = descriptor
        self._starts, self._sizes = starts, sizes

    def __len__(self) -> int:
        return len(self._starts)

    def __del__(self) -> None:
        # Not closed before nobody reads from it any more: another thread may be in the middle of it.
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def read(self, place: int) -> bytes:
        """The encoded image at `place`; short if the file ends before it does."""
        return os.pread(self._descriptor, int(self._sizes[place]), int(self._starts[place]))


class Layout(Protocol):
    """How the images of one kind of shard are found."""

    def open(self, shard: Shard, store: ShardStore) -> OpenShard:
        """Open a shard, fetching or unpacking it into `store` if it cannot be read where it is."""


class ShardReader:
    """The images of a split by number. Safe to use from several threads, and in copies in several processes."""

    def __init__(self, shards: Sequence[Shard], layout: Layout, store: ShardStore, kept_open: int) -> None:
        self._shards, self._layout, self._store = list(shards), layout, store
        self._kept_open = kept_open
        self.starts = np.cumsum([0, *(shard.count for shard in shards)], dtype=np.int64)
        self._reset()

    def _reset(self) -> None:
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def name(self, index: int) -> str:
        """The shard and the place in it, for messages."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self._shards[which].name} image {index - int(self.starts[which])}"

    def at(self, positions: np.ndarray) -> list[RawImage]:
        """The encoded images at `positions`, int64 (B,)."""
        which = np.searchsorted(self.starts, positions, side="right") - 1
        shards = self._opened(np.unique(which).tolist())
        places = positions - self.starts[which]
        return [shards[shard].read(place) for shard, place in zip(which.tolist(), places.tolist(), strict=True)]

    def images(self) -> Iterator[RawImage]:
        """All images in order."""
        for which, shard in enumerate(self._shards):
            opened = self._opened([which])[which]
            yield from (opened.read(place) for place in range(shard.count))

    def soon(self, shards: Sequence[int]) -> None:
        """Fetch these shards in the background. What goes wrong is found when they are read."""
        waiting = iter([self._shards[which] for which in shards])
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    shard = next(waiting, None)
                if shard is None:
                    return
                with contextlib.suppress(Exception):
                    self._layout.open(shard, self._store)

        for _ in range(min(_TOGETHER, len(shards))):
            # Daemons, so that a run that ends does not wait for a download.
            threading.Thread(target=work, name="groundup-shards", daemon=True).start()

    def _opened(self, wanted: list[int]) -> dict[int, OpenShard]:
        with self._lock:
            found = {which: self._open[which] for which in wanted if which in self._open}
            for which in found:
                self._open.move_to_end(which)
        absent = [which for which in wanted if which not in found]
        if len(absent) == 1:
            new = [self._open_one(absent[0])]
        elif absent:
            with ThreadPoolExecutor(min(_TOGETHER, len(absent))) as pool:
                new = list(pool.map(self._open_one, absent))
        else:
            new = []
        with self._lock:
            self._open.update(zip(absent, new, strict=True))
            while len(self._open) > max(self._kept_open, len(wanted)):
                self._open.popitem(last=False)
        return {**found, **dict(zip(absent, new, strict=True))}

    def _open_one(self, which: int) -> OpenShard:
        shard = self._shards[which]
        opened = self._layout.open(shard, self._store)
        if len(opened) != shard.count:
            raise damaged(shard, f"it holds {len(opened)} images, and should hold {shard.count}")
        return opened


def shard_split(
    shards: Sequence[Shard], labels: np.ndarray, layout: Layout, *, window: int, store: ShardStore
) -> SourceSplit:
    """A split of which the images lie in `shards`, in the order of `labels`, int64 (N,)."""
    # No more than a window: what the store removed takes disk space as long as it is open.
    reader = ShardReader(shards, layout, store, kept_open=window + 2)
    places = ShardPlaces(reader.starts, reader.soon)
    return SourceSplit(labels, reader.images, reader.name, reader.at, places)


def damaged(shard: Shard, why: str) -> DataError:
    """The error for a shard that cannot be used."""
    return DataError(f"shard {shard.url} is damaged: {why}", hint="copy or download it again, or pack it again")


def open_whole(shard: Shard, store: ShardStore) -> int:
    """A descriptor of the shard's file, whole and checked: where it is, or fetched into `store`."""
    if is_remote(shard.url):
        return store.open(shard.key, lambda place: fetch_checked(shard, place))
    try:
        descriptor = os.open(shard.url, os.O_RDONLY)
    except FileNotFoundError as error:
        raise missing(shard.url) from error
    try:
        _check_local(shard, descriptor, store)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def fetch_checked(shard: Shard, place: Path) -> None:
    """Copy a remote shard to `place`; DataError if it is not what its index says."""
    fetch(shard.url, place, shard.size)
    if shard.sha256 is not None and sha256(place) != shard.sha256:
        raise damaged(shard, "it does not match its checksum")


def _check_local(shard: Shard, descriptor: int, store: ShardStore) -> None:
    status = os.fstat(descriptor)
    if status.st_size != shard.size:
        raise damaged(shard, f"it has {status.st_size:,} bytes, and should have {shard.size:,}")
    if shard.sha256 is None:
        return
    # Read through once per file, not once per process and epoch.
    seen = digest([os.path.abspath(shard.url), status.st_size, status.st_mtime_ns, shard.sha256])
    note = store.folder / "checked" / seen
    if note.exists():
        return
    if sha256(Path(shard.url)) != shard.sha256:
        raise damaged(shard, "it does not match its checksum")
    with contextlib.suppress(OSError):  # a note that cannot be written costs time, nothing else
        write_bytes(note, b"")


def described(urls: Sequence[str], check: Callable[[], None]) -> list[FileFacts]:
    """Size and stamp of every file, asked for side by side. DataError names the first that is missing."""
    found: list[FileFacts] = []
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(urls), _ASKED_AT_ONCE):
            check()
            found += pool.map(facts, urls[start : start + _ASKED_AT_ONCE])
    return found
