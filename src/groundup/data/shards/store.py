"""The shards of streams on this machine's disk: fetched or unpacked once, for all processes, the least recently used removed.

    <cache home>/shards/<key>           a shard that was fetched, or the images of a Parquet file one after the other
    <cache home>/shards/<key>.members   where the images lie in it
    <cache home>/encoded/<key>          the images of a Parquet file that is read at random; never removed

A file appears whole or not at all, under a lock that lets one of several processes make it. Removing is safe at any time:
who has a file open keeps it.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from groundup.basis.errors import DataError
from groundup.basis.files import cache_home, whole_file

_UNFINISHED = re.compile(r"\.(?P<key>.+)\.[0-9a-f]{8}\.tmp(\.tmp)?")  # as `whole_file` names them
UNLIMITED = sys.maxsize
_ABANDONED = 3600  # seconds in which nothing was written to a file that is not finished


@dataclass(frozen=True)
class ShardStore:
    """`limit`: bytes that the files may take together. One file is always kept, however large. `name`: the folder in the cache."""

    limit: int
    name: str = "shards"

    @property
    def folder(self) -> Path:
        """Where the files are; looked up anew, so that a copy in another process finds its own."""
        return cache_home() / self.name

    def open(self, key: str, make: Callable[[Path], None]) -> int:
        """A descriptor of the file `key`, made by `make(path)` if it is not there. The caller closes it."""
        while True:
            path = self._made(key, make)
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # removed by another process in between
            with contextlib.suppress(OSError):
                os.utime(path)
            return descriptor

    def _made(self, key: str, make: Callable[[Path], None]) -> Path:
        from filelock import FileLock

        path = self.folder / key
        if path.exists():
            return path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{key}.lock"):
                if path.exists():
                    return path
                self._remove_left_overs(key)
                with whole_file(path) as temporary:
                    make(temporary)
                self._make_room(path)
        except OSError as error:
            raise DataError(
                f"a shard could not be written to {self.folder}: {error.strerror or error}",
                hint="make room there, point GROUNDUP_CACHE at another disk, or "
                + (
                    "read shard by shard: add ?streaming"
                    if self.limit == UNLIMITED
                    else "set a smaller data.shard_cache_gb"
                ),
            ) from error
        return path

    def _remove_left_overs(self, key: str) -> None:
        """Remove what processes that were killed left of the file `key`, whose lock is held, and of others long ago."""
        for path in self.folder.glob(".*.tmp"):
            if match := _UNFINISHED.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    if match["key"] == key or path.stat().st_mtime < time.time() - _ABANDONED:
                        path.unlink()

    def _make_room(self, newest: Path) -> None:
        found = []
        for path in self.folder.iterdir():
            if not path.name.startswith(".") and path != newest and path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        total = newest.stat().st_size + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size
