"""Parquet files as shards: on this machine, on the Hub, or packed anywhere; and how their images are reached one by one.

Inside a Parquet file images lie in compressed groups of rows, of which a shuffled batch needs nearly all. So a file is unpacked
once, when it is first used: its encoded images one after the other in one file of the store, where each is then one read.

    <store>/<key>.images     the bytes of all images, then int64 (count + 1,) where each starts, then the count as int64
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.data.columns import Columns, features_of, find_columns, image_values, label_values
from groundup.data.imagenet import spoken_names
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings
from groundup.data.shards.index import Entry, ShardIndex, contents_of, kept_index
from groundup.data.shards.opening import OpenShard, Shard, damaged, described, fetch_checked, open_whole
from groundup.data.shards.remote import FileFacts, is_remote, opened, with_retries
from groundup.data.shards.store import ShardStore
from groundup.data.sources import Contents, Source, SplitName, digest

_ROWS_AT_ONCE = 64
_Progress = Callable[[int, int], None]


class ParquetLayout:
    """Opens Parquet shards by unpacking their image column. `follow`: images that are paths are read from beside their file; what
    is not there is then an empty image, which is met as a damaged one. Else paths are an error."""

    def __init__(self, column: str, *, follow: bool = False) -> None:
        self._column, self._follow = column, follow

    def open(self, shard: Shard, store: ShardStore) -> OpenShard:
        """See `Layout`."""
        descriptor = store.open(self.copy_of(shard), lambda place: self._unpack(shard, store, place))
        try:
            starts = _starts(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenShard(descriptor, starts[:-1], np.diff(starts))

    def copy_of(self, shard: Shard) -> str:
        """The name of the unpacked file in a store."""
        return f"{digest([shard.key, self._column])}.images"

    def _unpack(self, shard: Shard, store: ShardStore, place: Path) -> None:
        if not is_remote(shard.url):
            with os.fdopen(open_whole(shard, store), "rb") as stream, open(place, "wb") as written:
                _unpack(stream, self._column, shard, written, Path(shard.url).parent if self._follow else None)
            return
        whole = place.with_name(f"{place.name}.tmp")  # of no use once it is unpacked
        try:
            fetch_checked(shard, whole)
            with open(whole, "rb") as stream, open(place, "wb") as written:
                _unpack(stream, self._column, shard, written, None)
        finally:
            whole.unlink(missing_ok=True)


def _unpack(stream: BinaryIO, column: str, shard: Shard, written: BinaryIO, beside: Path | None) -> None:
    starts = [0]
    for batch in _batches(stream, column, shard):
        for image in image_values(batch.column(0), beside):
            if beside is not None and isinstance(image, Path):
                image = image.read_bytes() if image.is_file() else b""
            if not isinstance(image, bytes):
                raise DataError(f"shard {shard.url}: images are paths; only stored images can be streamed")
            written.write(image)
            starts.append(starts[-1] + len(image))
    written.write(np.array([*starts, len(starts) - 1], dtype="<i8").tobytes())


def _batches(stream: BinaryIO, column: str, shard: Shard) -> Iterator[Any]:
    """The image column, some rows at a time. What goes wrong while it is read is damage, not a full disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.ParquetFile(stream).iter_batches(_ROWS_AT_ONCE, columns=[column])
    except (pa.ArrowException, OSError) as error:
        raise damaged(shard, str(error)) from error


def _starts(descriptor: int) -> np.ndarray:
    """Where the images of an unpacked file start and the last one ends, int64 (count + 1,)."""
    size = os.fstat(descriptor).st_size
    count = int.from_bytes(os.pread(descriptor, 8, size - 8), "little")
    length = 8 * (count + 1)
    return np.frombuffer(os.pread(descriptor, length, size - 8 - length), dtype="<i8").astype(np.int64)


def open_parquet_shards(
    files: Mapping[SplitName, Sequence[str]], settings: DataSettings, check: Callable[[], None], notes: list[str]
) -> Source:
    """The source of Parquet files by split. Of each, the footer and the label column are read once, and kept."""
    facts = {split: described(urls, check) for split, urls in files.items()}
    state = {split: [[fact.url, fact.size, fact.stamp] for fact in found] for split, found in facts.items()}
    key = digest(["parquet shards", state, settings.image, settings.label])

    def prepare(progress: _Progress | None) -> None:
        kept_index(key, lambda: _indexed(facts, settings, check, progress), check)

    def read() -> Contents:
        index = kept_index(key, lambda: _indexed(facts, settings, check, None), check)
        places = {fact.url: fact for found in facts.values() for fact in found}
        return contents_of(index, places, ParquetLayout(index.column), settings, notes)

    return Source(key, read, prepare=prepare)


def _indexed(
    files: Mapping[SplitName, Sequence[FileFacts]],
    settings: DataSettings,
    check: Callable[[], None],
    progress: _Progress | None,
) -> ShardIndex:
    total, done = sum(map(len, files.values())), 0
    columns: Columns | None = None
    raw: dict[SplitName, list[np.ndarray]] = {}
    for split in sorted(files, key=lambda split: split != "train"):
        raw[split] = []
        for fact in files[split]:
            check()
            columns, labels = _labels(fact, columns, settings)
            raw[split].append(labels)
            done += 1
            if progress:
                progress(done, total)
    assert columns is not None
    names = spoken_names(columns.names) if columns.names else None
    classes, labels_of = encode_labels({split: np.concatenate(parts) for split, parts in raw.items()}, names)
    entries: dict[SplitName, list[Entry]] = {}
    for split, found in files.items():
        parts = np.split(labels_of[split], np.cumsum([len(part) for part in raw[split]])[:-1])
        entries[split] = [Entry(fact.url, fact.size, None, part) for fact, part in zip(found, parts, strict=True)]
    return ShardIndex("parquet", classes, entries, column=columns.image)


def _labels(fact: FileFacts, columns: Columns | None, settings: DataSettings) -> tuple[Columns, np.ndarray]:
    """The columns, which the first file decides, and the label column of one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read() -> tuple[Columns, np.ndarray]:
        with opened(fact.url) as stream:
            file: Any = pq.ParquetFile(stream)
            chosen = columns or find_columns(file.schema_arrow, features_of(file.schema_arrow), settings)
            if absent := [name for name in (chosen.image, chosen.label) if name not in file.schema_arrow.names]:
                raise DataError(f"{fact.url} has no column {absent[0]!r}; columns: {listed(file.schema_arrow.names)}")
            return chosen, label_values(file.read([chosen.label]).column(0))

    try:
        return with_retries(fact.url, read) if is_remote(fact.url) else read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{fact.url} cannot be read as Parquet: {error}", hint="download it again") from error
