"""The door `parquet:DIR`: Parquet files named like the Hub's, e.g. `train-00000-of-00002.parquet`, read with pyarrow.

Splits are told by the first word of the file name (train, test, validation, valid, val, dev). Files lie in DIR or
DIR/data. Images are encoded bytes; class names come from the Hub's features in the file, else they are the distinct
labels in sorted order. With `?streaming` they are read shard by shard (`shards.parquet`). Without it images that are asked for
in any order come from a copy of the encoded bytes in the cache, one file per Parquet file, made when it is first used: memory holds
none of them.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.data.columns import LabelColumns, features_of, find_columns, image_values, label_values
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings
from groundup.data.shards.index import packed_index, packed_source
from groundup.data.shards.opening import Shard, ShardReader
from groundup.data.shards.parquet import ParquetLayout, open_parquet_shards
from groundup.data.shards.remote import facts, is_remote
from groundup.data.shards.store import UNLIMITED, ShardStore
from groundup.data.sources import (
    Contents,
    MissingSource,
    RawImage,
    Source,
    SourceSplit,
    SplitName,
    digest,
    existing_folder,
    split_called,
)

_ROWS_AT_ONCE = 256
_KEPT_OPEN = 256  # unpacked files
_SHARD = re.compile(r"(?P<split>[A-Za-z]+)(?P<rest>[-_.].*)?\.parquet", re.IGNORECASE)
_NUMBERED = re.compile(r"-(?P<number>\d+)-of-(?P<count>\d+)")


def open_parquet(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `parquet:DIR`. Its fingerprint is taken from names, sizes, times and footers."""
    if settings.streaming:
        return _open_stream(settings, check)
    files, shown = _files(settings)
    shards, notes = _by_split(files, shown)
    state = []
    for file in files:
        check()
        status = file.stat()
        state.append([file.name, status.st_size, status.st_mtime_ns, _footer(file, shown)])
    return Source(digest(["parquet", state]), lambda: _read(shards, notes, settings, shown), root=shown)


def _open_stream(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The files shard by shard: those of a packed folder, anywhere; of another folder on this machine."""
    remote = is_remote(settings.place)
    folder = settings.place.rstrip("/") if remote else str(existing_folder(settings.place, settings.source))
    if index := packed_index(folder, "parquet", settings.source):
        return packed_source(index, folder, ParquetLayout(index.column), settings, check)
    if remote:
        raise DataError(
            f"data.source={settings.source!r}: {settings.place} has no index.json",
            hint="pack the data with `groundup data pack`; Parquet files on the Hub are read by hub:OWNER/NAME?streaming",
        )
    files, shown = _files(settings)
    shards, notes = _by_split(files, shown)
    return open_parquet_shards(
        {split: [str(file) for file in shards[split]] for split in shards}, settings, check, notes
    )


def parquet_labels(settings: DataSettings, check: Callable[[], None]) -> LabelColumns:
    """The columns of the training files, of which those with labels can be read without the images."""
    files, shown = _files(settings)
    train = _by_split(files, shown)[0]["train"]
    schema = _arrow(train[0], shown, lambda opened: opened.schema_arrow)

    def read(column: str) -> np.ndarray:
        check()
        return np.concatenate(
            [_arrow(file, shown, lambda opened: label_values(opened.read([column]).column(0))) for file in train]
        )

    return LabelColumns(schema, features_of(schema), read)


def _files(settings: DataSettings) -> tuple[list[Path], str]:
    """The Parquet files, and how their folder is shown in messages."""
    root = existing_folder(settings.place, settings.source)
    folder = root if any(root.glob("*.parquet")) else root / "data"
    files = sorted(folder.glob("*.parquet"))
    if not files:
        elsewhere = sorted({str(path.parent.relative_to(root)) for path in root.glob("*/*.parquet")})
        hint = (
            f"there are some in {listed(elsewhere)}: write parquet:{settings.place.rstrip('/')}/{elsewhere[0]}"
            if elsewhere
            else None
        )
        raise MissingSource(f"data.source={settings.source!r}: no .parquet files in {settings.place}", hint=hint)
    if index := packed_index(str(folder), "parquet", settings.source):
        expected = {entry.name for entries in index.splits.values() for entry in entries}
        if absent := sorted(expected - {file.name for file in files}):
            raise DataError(f"{settings.place}: {listed(absent, 10)} of index.json is missing", hint="copy it again")
    return files, settings.place.rstrip("/") + ("/data" if folder != root else "")


def _by_split(files: list[Path], shown: str) -> tuple[dict[SplitName, list[Path]], list[str]]:
    shards: dict[SplitName, list[Path]] = {}
    notes = []
    for file in files:
        match = _SHARD.fullmatch(file.name)
        split = split_called(match["split"]) if match else None
        if split is None:
            notes.append(f"{file.name} is named after no split and is not read")
        else:
            shards.setdefault(split, []).append(file)
    if "train" not in shards:
        raise DataError(
            f"{shown} has no training split; files: {listed(file.name for file in files)}",
            hint="name the files like train-00000-of-00001.parquet",
        )
    for found in shards.values():
        _check_complete(found, shown)
    return shards, notes


def _check_complete(files: list[Path], shown: str) -> None:
    """`train-00000-of-00002` promises a second file; training on half the data must not happen unnoticed."""
    numbered = [match for file in files if (match := _NUMBERED.search(file.name))]
    if not numbered:
        return
    missing = set(range(int(numbered[0]["count"]))) - {int(match["number"]) for match in numbered}
    if missing:
        raise DataError(
            f"{shown}: {files[0].name} says that there are {int(numbered[0]['count'])} files, "
            f"number {listed(map(str, sorted(missing)))} is missing",
            hint="download it again",
        )


def _footer(file: Path, shown: str) -> str:
    with open(file, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 8))
        tail = stream.read()
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < 8 or tail[4:] != b"PAR1" or length + 8 > size:
            raise DataError(
                f"{shown}/{file.name} is damaged: it does not end like a Parquet file", hint="download it again"
            )
        stream.seek(size - 8 - length)
        return digest(stream.read(length).hex())


def _read(shards: dict[SplitName, list[Path]], notes: list[str], settings: DataSettings, shown: str) -> Contents:
    schemas = {
        file: _arrow(file, shown, lambda opened: opened.schema_arrow) for files in shards.values() for file in files
    }
    first = schemas[shards["train"][0]]
    columns = find_columns(first, features_of(first), settings)
    for file, schema in schemas.items():
        for column in (columns.image, columns.label):
            if column not in schema.names:
                raise DataError(f"{shown}/{file.name} has no column {column!r}; columns: {listed(schema.names)}")
    raw: dict[SplitName, np.ndarray] = {}
    splits: dict[SplitName, SourceSplit] = {}
    counts: dict[SplitName, list[int]] = {}
    for split, files in shards.items():
        parts = [
            _arrow(file, shown, lambda opened: label_values(opened.read([columns.label]).column(0))) for file in files
        ]
        counts[split] = [len(part) for part in parts]
        raw[split] = np.concatenate(parts)
    classes, labels = encode_labels(raw, columns.names)
    layout, store = ParquetLayout(columns.image, follow=True), ShardStore(UNLIMITED, "encoded")
    at_random = {split: _as_shards(files, counts[split]) for split, files in shards.items()}
    if settings.cache == "none":
        _check_room([shard for found in at_random.values() for shard in found], layout, store, settings)
    for split, files in shards.items():
        reader = ShardReader(at_random[split], layout, store, kept_open=_KEPT_OPEN)
        # Whoever reads them once and keeps the pixels needs no copy.
        images = reader.images if settings.cache == "none" else _images(files, columns.image, shown)
        splits[split] = SourceSplit(labels[split], images, _namer(files, counts[split]), reader.at)
    return Contents(classes, splits, notes)


def _as_shards(files: list[Path], counts: list[int]) -> list[Shard]:
    found = [facts(str(file.absolute())) for file in files]
    return [
        Shard(file.name, fact.url, fact.size, count, fact.stamp)
        for file, fact, count in zip(files, found, counts, strict=True)
    ]


def _check_room(shards: list[Shard], layout: ParquetLayout, store: ShardStore, settings: DataSettings) -> None:
    """DataError if the copies that are not there yet would not fit on the disk. Images hardly compress, so a copy is as large as
    its file."""
    needed = sum(shard.size for shard in shards if not (store.folder / layout.copy_of(shard)).exists())
    disk = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
    if needed > (free := shutil.disk_usage(disk).free):
        raise DataError(
            f"data.cache=none: the encoded images of {settings.source} need {needed / 1e9:.1f} GB in {store.folder}, where "
            f"{free / 1e9:.1f} GB are left",
            hint=f"make room there, point GROUNDUP_CACHE at another disk, or read shard by shard: {settings.source}?streaming",
        )


def _images(files: list[Path], column: str, shown: str) -> Callable[[], Iterator[RawImage]]:
    def images() -> Iterator[RawImage]:
        for file in files:
            batches = _arrow(file, shown, lambda opened: opened.iter_batches(_ROWS_AT_ONCE, columns=[column]))
            while (batch := _arrow_next(batches, file, shown)) is not None:
                yield from image_values(batch.column(0), file.parent)

    return images


def _namer(files: list[Path], counts: list[int]) -> Callable[[int], str]:
    starts = np.cumsum([0, *counts[:-1]])

    def name(index: int) -> str:
        which = int(np.searchsorted(starts, index, side="right")) - 1
        return f"{files[which].name} row {index - int(starts[which])}"

    return name


def _arrow(file: Path, shown: str, ask: Callable[[Any], Any]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return ask(pq.ParquetFile(file))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, shown, error) from error


def _arrow_next(batches: Iterator[Any], file: Path, shown: str) -> Any | None:
    import pyarrow as pa

    try:
        return next(batches, None)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, shown, error) from error


def _damaged(file: Path, shown: str, error: Exception) -> DataError:
    return DataError(f"{shown}/{file.name} cannot be read as Parquet: {error}", hint="download it again")
