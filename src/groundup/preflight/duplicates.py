"""Which images of a data set are the same, pixel by pixel, and where they stand.

Images are uint8 (N, H, W, 3) and are told apart by a hash of their pixels (BLAKE2b, 64 bit: among a million images two that
differ look the same with a chance of 3e-8). They are read block by block, so that memory stays small. Of large images first only
the middle rows are hashed, about 4 KB; the whole image only where those agree. What was found is kept in a small file, under a
key of the data and its splits. Copies that were cut, resized or encoded anew are not found.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from groundup.basis.files import write_json
from groundup.data import ImageSet, Splits

FORMAT = 1
_FIRST_LOOK = 4096  # bytes of an image that are hashed first
_BLOCK = 64 << 20  # bytes that are read at once
_EXAMPLES = 5

Copy = tuple[str, int, int]
"""An image as (split, position in the split, label)."""


@dataclass(frozen=True)
class DuplicateReport:
    """Images with the same pixels. Splits are called train, validation and test; those that the data has not are left out.

    images: how many each split has; repeated: how many of those show what an earlier one of the same split shows; shared: "test in
    train" -> how many images of test are in train too; test_in_train: their positions in test, ascending; conflicts: how many
    different images stand under more than one label, over all splits; conflicting: how many images these are with all their
    copies; examples: all copies of the first five of them.
    """

    images: dict[str, int]
    repeated: dict[str, int]
    shared: dict[str, int]
    test_in_train: list[int]
    conflicts: int
    conflicting: int
    examples: list[list[Copy]]


def known_duplicates(splits: Splits, cache: Path, check: Callable[[], None] = lambda: None) -> DuplicateReport:
    """`duplicates(splits)`, from the file in the folder `cache` where they were looked for before."""
    path = cache / f"duplicates-{_key(splits)}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        examples = [[(split, position, label) for split, position, label in copies] for copies in kept["examples"]]
        return DuplicateReport(**{**kept, "examples": examples})
    except (OSError, ValueError, TypeError, KeyError):
        report = duplicates(splits, check)
    with contextlib.suppress(OSError):  # a full or read-only disk: the next check takes as long as this one
        write_json(path, asdict(report))
    return report


def duplicates(splits: Splits, check: Callable[[], None] = lambda: None) -> DuplicateReport:
    """Which images of `splits` have the same pixels. `check` is called once per block of 64 MB, and may raise to interrupt."""
    parts = _parts(splits)
    names = list(parts)
    counts = [len(part) for part in parts.values()]
    labels = np.concatenate([part.labels for part in parts.values()])
    split = np.repeat(np.arange(len(names)), counts)
    position = np.concatenate([np.arange(count) for count in counts])
    _, group = np.unique(_hashes(list(parts.values()), check), return_inverse=True)  # which images are one, int64 (N,)
    copies = np.zeros((len(names), group.max(initial=-1) + 1), dtype=np.int64)  # of each image in each split
    np.add.at(copies, (split, group), 1)
    shared = {
        f"{names[later]} in {names[earlier]}": int(copies[later, copies[earlier] > 0].sum())
        for earlier, later in combinations(range(len(names)), 2)
    }
    in_train = (copies[0] > 0)[group]
    conflicts = np.flatnonzero(_differ(group, labels, copies.shape[1]))
    return DuplicateReport(
        images=dict(zip(names, counts, strict=True)),
        repeated={name: int((copies[row] - 1).clip(0).sum()) for row, name in enumerate(names)},
        shared=shared,
        test_in_train=position[in_train & (split == names.index("test"))].tolist() if "test" in names else [],
        conflicts=len(conflicts),
        conflicting=int(copies[:, conflicts].sum()),
        examples=[
            [(names[split[i]], int(position[i]), int(labels[i])) for i in np.flatnonzero(group == wrong)]
            for wrong in conflicts[:_EXAMPLES]
        ],
    )


def _parts(splits: Splits) -> dict[str, ImageSet]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: part for name, part in parts.items() if part is not None}


def _key(splits: Splits) -> str:
    """A hash of the data and of how it is split."""
    digest = hashlib.sha256(f"{FORMAT} {splits.fingerprint}".encode())
    for name, part in _parts(splits).items():
        digest.update(f" {name} ".encode())
        digest.update(part.indices.astype("<i8").tobytes())
        digest.update(part.labels.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _differ(group: np.ndarray, labels: np.ndarray, groups: int) -> np.ndarray:
    """bool (groups,): whether a group of images has more than one label. group, labels: int64 (N,)."""
    lowest, highest = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    return lowest != highest


def _hashes(parts: list[ImageSet], check: Callable[[], None]) -> np.ndarray:
    """A number for the pixels of every image of every part, uint64 (N,)."""
    rows = [_first_rows(part) for part in parts]
    everywhere = [np.arange(len(part)) for part in parts]
    hashes = [_hashed(*arguments, check) for arguments in zip(parts, everywhere, rows, strict=True)]
    values, count = np.unique(np.concatenate(hashes), return_counts=True)
    twice = values[count > 1]
    for part, own, (first, last) in zip(parts, hashes, rows, strict=True):
        if last - first < part.images.shape[1]:
            again = np.flatnonzero(np.isin(own, twice))
            own[again] = _hashed(part, again, (0, part.images.shape[1]), check)
    return np.concatenate(hashes)


def _first_rows(part: ImageSet) -> tuple[int, int]:
    """The rows in the middle that are hashed first; all of them where images are small, or have to be decoded anyway."""
    height, width = part.images.shape[1:3]
    count = max(1, _FIRST_LOOK // (3 * width))
    if count >= height or not isinstance(part.images, np.ndarray):
        return 0, height
    return (height - count) // 2, (height - count) // 2 + count


def _hashed(part: ImageSet, positions: np.ndarray, rows: tuple[int, int], check: Callable[[], None]) -> np.ndarray:
    """A hash of `rows` of the images at `positions`, uint64 (B,)."""
    result = np.empty(len(positions), dtype=np.uint64)
    for start, block in _blocks(part, positions, rows):
        check()
        pixels = np.ascontiguousarray(block).reshape(len(block), -1)
        digests = b"".join(hashlib.blake2b(image.data, digest_size=8).digest() for image in pixels)
        result[start : start + len(block)] = np.frombuffer(digests, dtype="<u8")
    return result


def _blocks(part: ImageSet, positions: np.ndarray, rows: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    first, last = rows
    width = part.images.shape[2]
    at_once = max(1, _BLOCK // (3 * width * (last - first)))
    for start in range(0, len(positions), at_once):
        indices = part.indices[positions[start : start + at_once]]
        if isinstance(part.images, np.ndarray):
            yield start, part.images[indices, first:last]
        else:
            yield start, part.images[indices]
