"""What there is to know about the images before they are trained on: balance, repeated images, wrong labels, the size of the test.

Repeated images are told by a hash of their pixels (BLAKE2b, 128 bit), read block by block from the file of decoded images. Of large
images first only the middle rows are hashed (4 KB), and the whole image where those agree. What was found is kept in a small file,
under a key of the data and its splits. What is a property of the data is a note: no setting of a run mends it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from groundup.basis.errors import listed
from groundup.basis.files import write_json
from groundup.data import ImageSet, Splits
from groundup.evaluation import wilson
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.shapes import source_shapes
from groundup.preflight.subject import Subject

FORMAT = 1
_FIRST_LOOK = 4096  # bytes of an image that are hashed first
_BLOCK = 64 << 20  # bytes read at once
_UNEVEN = 1.5  # largest class over smallest, from which the balance is worth a word
_WIDE = 0.05  # width of the interval of a test accuracy

DATA_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU401",
            "note",
            "Classes of different sizes",
            f"The largest class has at least {_UNEVEN:g} times the images of the smallest. A network trained on them leans towards the "
            "large ones, and the accuracy over all images hides how it does on the small ones.",
            "train.sampling=balanced or loss.class_weights=balanced, and look at the accuracy of each class",
        ),
        Code(
            "GU402",
            "warning",
            "A class with fewer than two training images",
            "Nothing can be learned of it, and nothing can be split off for validation. Often a misspelt folder, or data.limit set too low.",
            "more images, fewer classes, or a larger data.limit",
        ),
        Code(
            "GU403",
            "note",
            "The same image several times in one split",
            "In training it counts several times; in test its answer does.",
            "take the copies out of the source",
        ),
        Code(
            "GU404",
            "note",
            "The same image in two splits",
            "What was trained on is known by heart: on such images the accuracy says nothing about new ones. Only exact copies are found "
            "here; copies that were cut, resized or encoded anew are not.",
            "take them out of the training split of the source",
        ),
        Code(
            "GU405",
            "note",
            "The same image under two labels",
            "At least one of the labels is wrong. It bounds what can be reached, in training as in test.",
            "put the labels right in the source",
        ),
        Code(
            "GU406",
            "note",
            "Images that could not be read are left out",
            "Which images are missing decides what the accuracy speaks of; system 004 trained on 16,000 fewer than it said.",
            "repair them in the source, or data.on_bad_image=fail to stop at the first",
            ("004, bug 15",),
        ),
        Code(
            "GU407",
            "note",
            "Images lose their shape or are enlarged",
            "data.resize=squash changes the proportions of what is not square; an image smaller than data.resolution is made up of fewer "
            "pixels than it seems.",
            "data.resize=crop or pad; a smaller data.resolution",
        ),
        Code(
            "GU408",
            "note",
            "A small test split",
            f"The 95% interval of the accuracy is wider than {100 * _WIDE:g} points at the worst: smaller differences between two runs say "
            "nothing. More seeds do not help against it; they repeat the same images.",
            "more test images",
        ),
        Code(
            "GU409",
            "note",
            "Repeated images were not looked for",
            "The pixels are decoded anew for every batch (data.cache=none): to compare them is to decode everything.",
            "data.cache=disk",
        ),
    )
}


@dataclass(frozen=True)
class DuplicateReport:
    """Images with the same pixels. Splits are called train, validation and test; those that are not there are left out.

    images: how many each has; repeated: how many of them show what an earlier one of the same split shows; shared: "test in train" ->
    how many of the test split are in train too; test_in_train: their positions in the test split, ascending; conflicts: different
    images that stand under more than one label, over all splits; conflicting: how many images these are with their copies; examples:
    up to five of them, each as (split, position, label) of every copy.
    """

    images: dict[str, int]
    repeated: dict[str, int]
    shared: dict[str, int]
    test_in_train: list[int]
    conflicts: int
    conflicting: int
    examples: list[list[tuple[str, int, int]]]


def check_data(subject: Subject, cache: Path, check: Callable[[], None] = lambda: None) -> list[Finding]:
    """Everything about the data that is worth knowing; see `DATA_CODES`. `cache`: folder for what was found; `check` may raise."""
    findings = [*_balance(subject)]
    splits = subject.splits
    if splits is None:
        return findings
    findings += [*_skipped(splits), *_shapes(subject, check), *_small_test(splits)]
    if not isinstance(splits.train.images, np.ndarray):
        return [*findings, find(DATA_CODES["GU409"], f"data.cache={subject.recipe.data.cache}", "data.cache=disk")]
    report = known_duplicates(splits, cache, check)
    return [*findings, *_repeated(report), *_conflicts(report, splits.classes)]


def known_duplicates(splits: Splits, cache: Path, check: Callable[[], None] = lambda: None) -> DuplicateReport:
    """`duplicates(splits)`, from the file in `cache` where it was looked for before."""
    path = cache / f"duplicates-{_key(splits)}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["examples"] = [[tuple(copy) for copy in copies] for copies in kept["examples"]]
        return DuplicateReport(**kept)
    except (OSError, ValueError, TypeError, KeyError):
        report = duplicates(splits, check)
    try:
        write_json(path, asdict(report))
    except OSError:
        pass  # no room, or not ours to write to: the next check takes as long as this one
    return report


def duplicates(splits: Splits, check: Callable[[], None] = lambda: None) -> DuplicateReport:
    """Which images of `splits` have the same pixels. `check` is called once per block of 64 MB and may raise to interrupt."""
    parts = _parts(splits)
    names = list(parts)
    keys = np.concatenate([_hashes(part, check) for part in parts.values()])
    labels = np.concatenate([part.labels for part in parts.values()])
    split = np.repeat(np.arange(len(names)), [len(part) for part in parts.values()])
    position = np.concatenate([np.arange(len(part)) for part in parts.values()])
    _, group = np.unique(keys, return_inverse=True)  # which images are one, int64 (N,)
    groups = int(group.max()) + 1 if len(group) else 0
    present = np.zeros((len(names), groups), dtype=np.int64)  # copies of each image in each split
    np.add.at(present, (split, group), 1)
    shared = {
        f"{later} in {earlier}": int(present[names.index(later)][present[names.index(earlier)] > 0].sum())
        for earlier, later in combinations(names, 2)
    }
    in_train = present[0] > 0
    leaked = position[(split == names.index("test")) & in_train[group]] if "test" in names else np.empty(0, np.int64)
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    np.minimum.at(low, group, labels)
    np.maximum.at(high, group, labels)
    conflicts = np.flatnonzero(low != high)
    examples = [np.flatnonzero(group == wrong) for wrong in conflicts[:5]]
    return DuplicateReport(
        images={name: len(part) for name, part in parts.items()},
        repeated={name: int((present[row] - 1).clip(0).sum()) for row, name in enumerate(names)},
        shared=shared,
        test_in_train=leaked.tolist(),
        conflicts=len(conflicts),
        conflicting=int(present[:, conflicts].sum()),
        examples=[[(names[split[i]], int(position[i]), int(labels[i])) for i in copies] for copies in examples],
    )


def _parts(splits: Splits) -> dict[str, ImageSet]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: part for name, part in parts.items() if part is not None}


def _key(splits: Splits) -> str:
    """A hash of the data and of how it is split."""
    digest = hashlib.sha256(f"{FORMAT} {splits.fingerprint}".encode())
    for name, part in _parts(splits).items():
        digest.update(f" {name} ".encode())
        digest.update(np.ascontiguousarray(part.indices).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    return digest.hexdigest()[:32]


def _hashes(images: ImageSet, check: Callable[[], None]) -> np.ndarray:
    """A hash of the pixels of every image, `S16` (N,)."""
    raise NotImplementedError
