"""What a door gives: a `Source` with a cheap fingerprint, and its `Contents` once they are asked for.

The two are apart because a source whose decoded images are in the cache is never read again: only its fingerprint is
taken. Labels are int64 (N,), positions in `classes`; a negative label means "not labelled", as the Hub writes hidden
test labels.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from groundup.basis.errors import DataError

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
class SourceSplit:
    """One split as the source has it. `images()` gives them in the order of `labels`; `name(i)` is for messages.

    `at(positions)`, int64 (B,), gives those images alone, in that order. What the source cannot reach by position it
    reads whole at the first call and keeps in memory, still encoded.
    """

    labels: np.ndarray
    images: Callable[[], Iterator[RawImage]]
    name: Callable[[int], str]
    at: Callable[[np.ndarray], list[RawImage]]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Contents:
    """Class names in the order of their labels, the splits that are there, and what the user should know about them."""

    classes: list[str]
    splits: dict[SplitName, SourceSplit]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """`fingerprint` changes when the content does. `root` is the place as the user wrote it, for messages."""

    fingerprint: str
    read: Callable[[], Contents]
    root: str = ""

    def located(self, name: str) -> str:
        """`name` (relative to the source) as the user can find it."""
        return f"{self.root.rstrip('/')}/{name}" if self.root else name


def digest(content: Any) -> str:
    """A hash of JSON-able `content`, 32 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def existing_folder(place: str, source: str) -> Path:
    """The folder `place`, or a DataError that says what is wrong with it. A leading ~ is the home folder."""
    folder = Path(place).expanduser()
    if not folder.exists():
        raise DataError(
            f"data.source={source!r}: there is no folder {place}",
            hint="check the path; it is relative to where you are",
        )
    if not folder.is_dir():
        raise DataError(f"data.source={source!r}: {place} is a file, not a folder")
    return folder


def array_of_objects(values: Iterable[Any]) -> np.ndarray:
    """A one-dimensional object array, whatever the values are."""
    values = list(values)
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result
