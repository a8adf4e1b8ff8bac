"""What a door gives: a `Source` with a cheap fingerprint, and its `Contents` once they are asked for.

The two are apart because a source whose decoded images are in the cache is never read again: only its fingerprint is
taken. Labels are int64 (N,), positions in `classes`; a negative label means "not labelled", as the Hub writes hidden
test labels.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from groundup.basis.errors import DataError, UsageError

RawImage = bytes | Path | Image.Image | np.ndarray
SplitName = Literal["train", "validation", "test"]

SPLIT_SYNONYMS: dict[str, SplitName] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def split_called(name: str) -> SplitName | None:
    """The split that a file or folder `name` stands for, or None."""
    return SPLIT_SYNONYMS.get(name.lower())


@dataclass(frozen=True)
class ShardPlaces:
    """Shard s of a split holds its images starts[s]..starts[s + 1] - 1; int64 (S + 1,).

    `soon(shards)` says that these shards are read next: what is far away is fetched meanwhile.
    """

    starts: np.ndarray
    soon: Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class SourceSplit:
    """One split as the source has it. `images()` gives them in the order of `labels`; `name(i)` is for messages.

    `at(positions)`, int64 (B,), gives those images alone, in that order, and keeps none in memory. `shards`: where its shards
    begin, for data that is read shard by shard (the room `shards`), else None.
    """

    labels: np.ndarray
    images: Callable[[], Iterator[RawImage]]
    name: Callable[[int], str]
    at: Callable[[np.ndarray], list[RawImage]]
    shards: "ShardPlaces | None" = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Contents:
    """Class names in the order of their labels, the splits that are there, and what the user should know about them.

    `identity`: of data in shards a hash that is the same wherever they lie; "" where the images have to be decoded for that.
    """

    classes: list[str]
    splits: dict[SplitName, SourceSplit]
    notes: list[str] = field(default_factory=list)
    identity: str = ""


@dataclass(frozen=True)
class Source:
    """`fingerprint` changes when the content does. `root` is the place as the user wrote it, for messages.

    `prepare(progress)`, where there is one, does what `read` would have to wait for, and says how far it is: (done, total).
    `notes`: what the user should know and no fingerprint tells; unlike those of the contents they are found anew at every opening.
    """

    fingerprint: str
    read: Callable[[], Contents]
    root: str = ""
    prepare: Callable[[Callable[[int, int], None] | None], None] | None = None
    notes: list[str] = field(default_factory=list)

    def located(self, name: str) -> str:
        """`name` (relative to the source) as the user can find it."""
        return f"{self.root.rstrip('/')}/{name}" if self.root else name


class MissingSource(UsageError, DataError):
    """What data.source names is not there: a mistake of the caller, where other errors of the data are errors of the run."""


def digest(content: Any) -> str:
    """A hash of JSON-able `content`, 32 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def existing_folder(place: str, source: str) -> Path:
    """The folder `place`, or a MissingSource that says what is wrong with it. A leading ~ is the home folder."""
    folder = Path(place).expanduser()
    if not folder.exists():
        raise MissingSource(
            f"data.source={source!r}: there is no folder {place}",
            hint="check the path; it is relative to where you are",
        )
    if not folder.is_dir():
        raise MissingSource(f"data.source={source!r}: {place} is a file, not a folder")
    return folder


def array_of_objects(values: Iterable[Any]) -> np.ndarray:
    """A one-dimensional object array, whatever the values are."""
    values = list(values)
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result
