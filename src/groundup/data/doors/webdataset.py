"""The door `webdataset:SHARDS`: tar files of images with their labels, on a disk, on a web server or in an S3 bucket.

SHARDS is a folder; a pattern with braces or `*`, e.g. `https://HOST/in-train-{0000..1023}.tar`; or several of these joined by `::`.
Splits are told by the last such word of the file name, else by the name of its folder (train, validation, valid, val, dev,
test); files without one are train. What `groundup data pack` wrote has an index; the labels of other shards are read once, by a
pass over all of them, and kept. Class names come from the index or from `classes.txt` beside the first shard, else they are the
labels themselves.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from groundup.basis.errors import DataError, UsageError, listed
from groundup.data.imagenet import spoken_names
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings
from groundup.data.shards.index import Entry, ShardIndex, contents_of, kept_index, packed_index, packed_source
from groundup.data.shards.opening import Shard, described
from groundup.data.shards.remote import FileFacts, RefusedFile, contents, expanded, is_remote, joined, matching, parent
from groundup.data.shards.store import ShardStore
from groundup.data.shards.tar import TarLayout, labels_of
from groundup.data.sources import (
    SPLIT_SYNONYMS,
    Contents,
    MissingSource,
    Source,
    SplitName,
    array_of_objects,
    digest,
    split_called,
)

_Progress = Callable[[int, int], None]


def open_webdataset(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `webdataset:SHARDS`. Its fingerprint: checksums where there is an index, else names, sizes and times."""
    patterns = [_home(part) for part in settings.place.split("::")]
    is_folder = len(patterns) == 1 and not patterns[0].endswith(".tar")
    if is_folder and (index := packed_index(patterns[0].rstrip("/"), "webdataset", settings.source)):
        return packed_source(index, patterns[0], TarLayout(), settings, check)
    files = [url for pattern in patterns for url in _files(pattern, settings.source)]
    if twice := next((url for url, count in Counter(files).items() if count > 1), None):
        raise UsageError(f"data.source={settings.source!r}: {twice} is named twice", hint="name every shard once")
    by_split = _by_split(files)
    if "train" not in by_split:
        raise DataError(
            f"data.source={settings.source!r}: none of the {len(files)} shards is of the training split",
            hint=f"the last word of a file name that is a split's tells it, else its folder ({listed(SPLIT_SYNONYMS)})",
        )
    facts = described(files, check)
    names = {fact.url: fact for fact in facts}
    key = digest(["webdataset", [[fact.url, fact.size, fact.stamp] for fact in facts], _class_names(files[0])])
    shards = {split: [names[url] for url in urls] for split, urls in by_split.items()}

    def prepare(progress: _Progress | None) -> None:
        kept_index(key, lambda: _indexed(shards, settings, check, progress), check)

    def read() -> Contents:
        index = kept_index(key, lambda: _indexed(shards, settings, check, None), check)
        return contents_of(index, names, TarLayout(), settings, [])

    return Source(key, read, prepare=prepare)


def _home(pattern: str) -> str:
    return pattern if is_remote(pattern) else str(Path(pattern).expanduser())


def _files(pattern: str, source: str) -> list[str]:
    """The shards that a folder or a pattern stands for."""
    found: list[str] = []
    for part in expanded(pattern):
        if "*" in part:
            found += matching(part)
        elif part.endswith(".tar"):
            found.append(part)
        elif part.startswith("http"):
            raise DataError(
                f"data.source={source!r}: {part} has no index.json, and a folder of a web server cannot be listed",
                hint="name the files, e.g. https://HOST/shard-{000..099}.tar",
            )
        else:
            found += matching(joined(part, "*.tar")) or matching(joined(part, "*/*.tar"))
    if not found:
        raise MissingSource(f"data.source={source!r}: there are no .tar files at {pattern}", hint="check the address")
    return found


def _by_split(files: Sequence[str]) -> dict[SplitName, list[str]]:
    """The shards of each split. A word of the file name counts before the name of the folder, a later word before an earlier."""
    found: dict[SplitName, list[str]] = {}
    for url in files:
        words = [*reversed(re.split(r"[-_.]", url.rpartition("/")[2])), parent(url).rpartition("/")[2]]
        split: SplitName = next((known for word in words if (known := split_called(word))), "train")
        found.setdefault(split, []).append(url)
    return found


def _class_names(first: str) -> list[str] | None:
    """The lines of `classes.txt` beside the shard `first`, None without such a file."""
    try:
        text = contents(joined(parent(first), "classes.txt"))
    except RefusedFile:  # of a file that is not there, or else the shards will be refused too
        text = None
    return None if text is None else spoken_names(text.decode().splitlines())


def _indexed(
    shards: Mapping[SplitName, Sequence[FileFacts]],
    settings: DataSettings,
    check: Callable[[], None],
    progress: _Progress | None,
) -> ShardIndex:
    """Read the labels of all shards."""
    store = ShardStore(int(settings.shard_cache_gb * 1e9))
    total, done = sum(map(len, shards.values())), 0
    raw: dict[SplitName, list[np.ndarray]] = {}
    layouts: dict[str, str] = {}
    for split, files in shards.items():
        raw[split] = []
        for fact in files:
            check()
            shard = Shard(fact.url, fact.url, fact.size, 0, fact.stamp)
            labels, layouts[fact.url] = labels_of(shard, store)
            raw[split].append(_as_array(labels, shard))
            done += 1
            if progress:
                progress(done, total)
    first = next(iter(shards.values()))[0].url
    whole = {split: np.concatenate(parts) for split, parts in raw.items()}
    classes, encoded = encode_labels(whole, _class_names(first))
    entries: dict[SplitName, list[Entry]] = {}
    for split, files in shards.items():
        cuts = np.cumsum([len(part) for part in raw[split]])[:-1]
        parts = np.split(encoded[split], cuts)
        entries[split] = [
            Entry(fact.url, fact.size, None, part, layouts[fact.url]) for fact, part in zip(files, parts, strict=True)
        ]
    return ShardIndex("tar", classes, entries)


def _as_array(labels: list[int | str], shard: Shard) -> np.ndarray:
    if all(isinstance(label, int) for label in labels):
        return np.array(labels, dtype=np.int64)
    if all(isinstance(label, str) for label in labels):
        return array_of_objects(labels)
    raise DataError(f"shard {shard.url}: some labels are numbers and some are names")
