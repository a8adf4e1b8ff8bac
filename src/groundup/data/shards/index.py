"""What is known about shards before any is read: how many images each holds, their labels, the class names.

`groundup data pack` writes it as `index.json` beside the shards:

    {"format": "groundup-shards", "version": 1, "kind": "tar" | "parquet", "classes": [...], "made": {...},
     "splits": {"train": [{"name": ..., "count": ..., "bytes": ..., "sha256": ..., "labels": ...}, ...], ...}}

`labels` are int32, little-endian, compressed by zlib, in base64: about 2 bytes per image for 1000 classes. For shards that somebody
else made, the same is found out once and kept in the cache, without checksums and with an image column for Parquet.
"""

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundup.basis.errors import DataError, UsageError
from groundup.basis.files import cache_home, write_text
from groundup.data.pixels.cache import locked
from groundup.data.settings import DataSettings
from groundup.data.shards.opening import Layout, Shard, damaged, described, shard_split
from groundup.data.shards.remote import FileFacts, contents, is_remote, joined
from groundup.data.shards.store import ShardStore
from groundup.data.sources import Contents, Source, SourceSplit, SplitName, digest

NAME = "index.json"
FORMAT, VERSION = "groundup-shards", 1
KINDS = {"tar": "webdataset", "parquet": "parquet"}  # kind of shard -> the door that reads it


@dataclass(frozen=True)
class Entry:
    """One shard. `labels`: int64 (count,); `size` in bytes; `sha256` hex, None where nobody has computed it; `layout`: then a hash
    of the sizes of its images, "" where these are not known."""

    name: str
    size: int
    sha256: str | None
    labels: np.ndarray
    layout: str = ""

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Entry":
        """ValueError, KeyError or TypeError if it is not what `to_json` writes."""
        labels = np.frombuffer(zlib.decompress(base64.b64decode(written["labels"])), dtype="<i4").astype(np.int64)
        if len(labels) != written["count"]:
            raise ValueError("labels and count differ")
        layout = str(written.get("layout", ""))
        return cls(str(written["name"]), int(written["bytes"]), written["sha256"], labels, layout)

    def to_json(self) -> dict[str, Any]:
        """As it stands in index.json."""
        labels = base64.b64encode(zlib.compress(self.labels.astype("<i4").tobytes(), 9)).decode()
        count = len(self.labels)
        written = {"name": self.name, "count": count, "bytes": self.size, "sha256": self.sha256, "labels": labels}
        return {**written, "layout": self.layout} if self.layout else written


@dataclass(frozen=True)
class ShardIndex:
    """All shards of a data set. `made`: how, for whoever wants to make it again; `column`: the image column of Parquet files."""

    kind: str
    classes: list[str]
    splits: dict[SplitName, list[Entry]]
    made: dict[str, Any] = field(default_factory=dict)
    column: str = "image"

    def write(self, path: Path) -> None:
        """Write it, whole or not at all, one shard per line."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "column": self.column,
            "made": self.made,
            "classes": self.classes,
        }
        splits = ",\n".join(
            f"{json.dumps(split)}: [\n" + ",\n".join(json.dumps(entry.to_json()) for entry in entries) + "\n]"
            for split, entries in self.splits.items()
        )
        write_text(path, json.dumps(head, indent=1).removesuffix("\n}") + f',\n "splits": {{\n{splits}\n}}}}\n')

    @classmethod
    def parse(cls, text: bytes, where: str) -> "ShardIndex":
        """DataError names the file and says what is wrong."""
        try:
            read = json.loads(text)
            if read["format"] != FORMAT:
                raise ValueError(f"its format is {read['format']!r}")
            if read["version"] != VERSION:
                raise DataError(
                    f"{where}: version {read['version']}; this groundup reads version {VERSION}",
                    hint="use the groundup that packed it, or pack it again",
                )
            splits: dict[SplitName, list[Entry]] = {
                split: [Entry.from_json(entry) for entry in entries] for split, entries in read["splits"].items()
            }
            return cls(str(read["kind"]), list(read["classes"]), splits, dict(read["made"]), str(read["column"]))
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise DataError(f"{where} is not an index of shards: {error}", hint="pack the data again") from error

    @property
    def fingerprint(self) -> str:
        """A hash of all that is in the shards, as far as it is known; the same wherever they lie."""
        shards = {
            split: [
                [entry.sha256 or [entry.size, entry.layout], digest(entry.labels.astype("<i4").tobytes().hex())]
                for entry in entries
            ]
            for split, entries in self.splits.items()
        }
        return digest([self.kind, self.classes, shards, *([] if self.column == "image" else [self.column])])


def packed_index(folder: str, door: str, source: str) -> ShardIndex | None:
    """The index that `groundup data pack` left in `folder`, None if there is none. `door`: the kind of source that asks."""
    text = contents(joined(folder, NAME))
    if text is None:
        if not is_remote(folder) and (Path(folder) / ".packing.jsonl").exists():
            raise DataError(
                f"data.source={source!r}: `groundup data pack` has not finished this folder",
                hint="run the same command again: it goes on where it stopped",
            )
        return None
    if FORMAT.encode() not in text[:400]:
        return None  # an index.json of something else
    index = ShardIndex.parse(text, joined(folder, NAME))
    if (reader := KINDS.get(index.kind)) != door:
        raise DataError(
            f"data.source={source!r}: these are {index.kind} shards",
            hint=f"write {reader}:{folder}" + ("?streaming" if reader == "parquet" else ""),
        )
    return index


def packed_source(
    index: ShardIndex, folder: str, layout: Layout, settings: DataSettings, check: Callable[[], None]
) -> Source:
    """The source of a folder with an index. Every shard has to be there, with its size."""
    entries = [entry for split in index.splits.values() for entry in split]
    facts = described([joined(folder, entry.name) for entry in entries], check)
    places = {entry.name: fact for entry, fact in zip(entries, facts, strict=True)}
    return Source(index.fingerprint, lambda: contents_of(index, places, layout, settings, []), root=folder)


def contents_of(
    index: ShardIndex, places: Mapping[str, FileFacts], layout: Layout, settings: DataSettings, notes: list[str]
) -> Contents:
    """The splits of an index. `places`: where each shard is, by its name."""
    store = ShardStore(int(settings.shard_cache_gb * 1e9))
    splits: dict[SplitName, SourceSplit] = {}
    for split, entries in index.splits.items():
        shards = []
        for entry in entries:
            place = places[entry.name]
            shard = Shard(entry.name, place.url, entry.size, len(entry.labels), place.stamp, entry.sha256)
            if place.size != entry.size:
                raise damaged(shard, f"it has {place.size:,} bytes, and should have {entry.size:,}")
            shards.append(shard)
        labels = np.concatenate([np.empty(0, dtype=np.int64), *(entry.labels for entry in entries)])
        splits[split] = shard_split(shards, labels, layout, window=settings.shuffle_window, store=store)
        if split == "train":
            _check_store(shards, store, settings, unpacked=index.kind == "parquet")
    return Contents(index.classes, splits, notes, index.fingerprint)


def _check_store(shards: Sequence[Shard], store: ShardStore, settings: DataSettings, *, unpacked: bool) -> None:
    """The window that is read and the next have to be on this machine together; else every batch would fetch shards anew."""
    if not unpacked and not any(is_remote(shard.url) for shard in shards):
        return
    sizes = sorted((shard.size for shard in shards), reverse=True)
    needed = sum(sizes[: 2 * settings.shuffle_window])
    if needed > store.limit:
        raise UsageError(
            f"data.shard_cache_gb={settings.shard_cache_gb:g}: two windows of {settings.shuffle_window} shards take up to "
            f"{needed / 1e9:.3g} GB",
            hint=f"set data.shard_cache_gb={math.ceil(needed / 1e8) / 10:g} or more, or a smaller data.shuffle_window",
        )


def kept_index(key: str, find_out: Callable[[], ShardIndex], check: Callable[[], None]) -> ShardIndex:
    """The index of somebody else's shards: from the cache, else found out by one of several processes and kept under `key`."""
    path = cache_home() / "shard-index" / f"{key}.json"
    if (index := _read_index(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, check):
            if (index := _read_index(path)) is None:  # else another process has found it out meanwhile
                index = find_out()
                index.write(path)
    return index


def _read_index(path: Path) -> ShardIndex | None:
    try:
        return ShardIndex.parse(path.read_bytes(), str(path))
    except (OSError, DataError):
        return None
