"""What there is to know about the images before they are trained on: balance, repeated images, labels, sizes, the size of the test.

What is a property of the data is a note: no setting of a run mends it, and the reader of the result should know it.
"""

import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from groundup.basis.errors import DataError, listed
from groundup.data import DOORS, Splits
from groundup.evaluation import wilson
from groundup.preflight.duplicates import DuplicateReport, duplicates, known_duplicates
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.subject import Subject

__all__ = ["DATA_CODES", "DuplicateReport", "check_data", "duplicates", "known_duplicates"]

_UNEVEN = 1.5  # largest class over smallest
_WIDE = 0.05  # width of the 95% interval of an accuracy of one half, the widest there is
_LONGISH = 4 / 3  # longer side over shorter, above which squashing changes the look of things
_MEASURED = 256  # images of which the size is looked up
_SHARE = 0.1  # of them

DATA_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU401",
            "note",
            "Classes of different sizes",
            f"The largest class has at least {_UNEVEN:g} times as many images as the smallest. A network trained on "
            "them leans towards the large classes, and the accuracy over all images hides how it does on the small "
            "ones.",
            "Set train.sampling=balanced or loss.class_weights=balanced, and look at the accuracy of each class.",
        ),
        Code(
            "GU402",
            "warning",
            "A class with fewer than two training images",
            "Nothing can be learned of it. Often a misspelt folder, or data.limit set too low.",
            "Add images, remove the class, or raise data.limit.",
        ),
        Code(
            "GU403",
            "note",
            "The same image several times in one split",
            "In training such an image counts several times; in test its answer does.",
            "Take the copies out of the source.",
        ),
        Code(
            "GU404",
            "note",
            "The same image in two splits",
            "What was trained on is known by heart: on such images the accuracy says nothing about new ones. Only "
            "exact copies are found here; those that were cut, resized or encoded anew are not.",
            "Take them out of the training split of the source.",
        ),
        Code(
            "GU405",
            "note",
            "The same image under two labels",
            "At least one of the labels is wrong. It bounds what can be reached, in training as in test.",
            "Put the labels right in the source.",
        ),
        Code(
            "GU406",
            "note",
            "Images that could not be read are left out",
            "Which images are missing decides what the accuracy speaks of. System 004 spoke of 1,281,167 training "
            "images; by its own commits 16,000 of them were missing.",
            "Repair them in the source; data.on_bad_image=fail stops at the first.",
            ("004, bug 15",),
        ),
        Code(
            "GU407",
            "note",
            "Images lose their proportions or are enlarged",
            "data.resize=squash changes the proportions of what is not square, and an image smaller than "
            f"data.resolution has fewer pixels than it seems. Told of {_MEASURED} images of a folder or of Parquet "
            f"files, where more than {_SHARE:.0%} are such.",
            "Choose data.resize=crop or pad; a smaller data.resolution.",
        ),
        Code(
            "GU408",
            "note",
            "A small test split",
            f"The 95% interval of an accuracy near one half is wider than {100 * _WIDE:g} points: smaller differences "
            "between two runs say little. More seeds do not help against it, for they are asked about the same "
            "images.",
            "Collect more test images.",
        ),
        Code(
            "GU409",
            "note",
            "Repeated images were not looked for",
            "The pixels are decoded anew for every batch: comparing them would decode everything.",
            "Set data.cache=disk. Of a stream, look at a part: the same shards by a door that keeps them.",
        ),
    )
}


def check_data(subject: Subject, cache: Path, check: Callable[[], None] = lambda: None) -> list[Finding]:
    """Everything about the data that is worth knowing; see `DATA_CODES`.

    cache: folder where the search for repeated images is kept; check: called once per 64 MB of pixels, may raise to interrupt.
    """
    findings = list(_balance(subject))
    splits = subject.splits
    if splits is None:
        return findings
    findings += [*_skipped(splits), *_sizes(subject, check), *_test_size(splits)]
    if not isinstance(splits.train.images, np.ndarray):
        data = subject.recipe.data
        mend = "" if data.streaming else "data.cache=disk"  # a stream cannot be kept
        return [*findings, find(DATA_CODES["GU409"], f"data.source={data.source}, data.cache={data.cache}", mend)]
    report = known_duplicates(splits, cache, check)
    return [*findings, *_repeated(report), *_conflicts(report, splits.classes)]


def _balance(subject: Subject) -> Iterator[Finding]:
    valid = (subject.labels >= 0) & (subject.labels < subject.classes)  # others are GU203
    counts = torch.bincount(subject.labels[valid], minlength=subject.classes)
    names = subject.splits.classes if subject.splits is not None else [str(label) for label in range(subject.classes)]
    if few := [f"{names[label]} ({int(counts[label])})" for label in (counts < 2).nonzero().flatten().tolist()]:
        limit = subject.recipe.data.limit
        yield find(
            DATA_CODES["GU402"], f"{len(few)} of {len(counts)}: {listed(few, 5)}", "data.limit=null" if limit else ""
        )
    present = counts[counts > 0]
    ratio = float(present.max() / present.min()) if len(present) else 1.0
    if ratio < _UNEVEN:
        return
    smallest = int(torch.where(counts > 0, counts, counts.max()).argmin())
    largest = int(counts.argmax())
    balanced = subject.recipe.train.sampling == "balanced" or subject.recipe.loss.class_weights == "balanced"
    yield find(
        DATA_CODES["GU401"],
        f"{names[largest]} has {int(counts[largest]):,} training images, {names[smallest]} {int(counts[smallest]):,}: "
        f"{ratio:.1f} to 1" + (", which the recipe balances" if balanced else ""),
        "" if balanced else "train.sampling=balanced",
    )


def _repeated(report: DuplicateReport) -> Iterator[Finding]:
    for split, count in report.repeated.items():
        if count:
            yield find(
                DATA_CODES["GU403"],
                f"{split}: {count:,} of {report.images[split]:,} images repeat an earlier one",
                DATA_CODES["GU403"].mend,
            )
    for pair, count in report.shared.items():
        if count:
            total = report.images[pair.split(" ")[0]]
            yield find(
                DATA_CODES["GU404"],
                f"{pair}: {count:,} of {total:,} images ({count / total:.2%})",
                DATA_CODES["GU404"].mend,
            )


def _conflicts(report: DuplicateReport, classes: list[str]) -> Iterator[Finding]:
    if not report.conflicts:
        return
    example = " and ".join(f"{split} {place} as {classes[label]}" for split, place, label in report.examples[0][:3])
    yield find(
        DATA_CODES["GU405"],
        f"{report.conflicts:,} different images ({report.conflicting:,} with all copies), such as {example}",
        DATA_CODES["GU405"].mend,
    )


def _skipped(splits: Splits) -> Iterator[Finding]:
    if splits.skipped:
        named = [f"{name} ({reason})" for name, reason in splits.skipped.items()]
        yield find(DATA_CODES["GU406"], f"{len(named):,} images: {listed(named, 3)}", DATA_CODES["GU406"].mend)


def _test_size(splits: Splits) -> Iterator[Finding]:
    count = len(splits.test) if splits.test is not None else 0
    if count == 0 or (width := _width(0.5, count)) <= _WIDE:
        return
    yield find(
        DATA_CODES["GU408"],
        f"{count:,} test images: the 95% interval is {100 * width:.1f} points wide near 50% and "
        f"{100 * _width(0.95, count):.1f} near 95%",
        DATA_CODES["GU408"].mend,
    )


def _width(accuracy: float, count: int) -> float:
    low, high = wilson(round(accuracy * count), count)
    return high - low


def _sizes(subject: Subject, check: Callable[[], None]) -> Iterator[Finding]:
    """Of sources with images of many sizes: how many lose their proportions, or are smaller than what is made of them."""
    data = subject.recipe.data
    if data.resolution is None or data.kind not in ("folder", "parquet"):
        return
    sizes = _source_sizes(subject, check)
    if len(sizes) == 0:
        return
    width, height = sizes[:, 0], sizes[:, 1]
    # Pillow fits the longer side for `pad`, the shorter for `crop`, and both when it squashes.
    fitted = np.maximum(width, height) if data.resize == "pad" else np.minimum(width, height)
    longish = float((np.maximum(width, height) > _LONGISH * np.minimum(width, height)).mean())
    small = float((fitted < data.resolution).mean())
    said = f"of {len(sizes)} images looked at ({width.min()}x{height.min()} to {width.max()}x{height.max()} px)"
    if data.resize == "squash" and longish > _SHARE:
        yield find(
            DATA_CODES["GU407"],
            f"{longish:.0%} {said} are longer than 4:3 and are squashed to a square",
            "data.resize=crop",
        )
    if small > _SHARE:
        middle = int(np.median(fitted))
        yield find(
            DATA_CODES["GU407"],
            f"{small:.0%} {said} are enlarged to data.resolution={data.resolution}; the median side is {middle} px",
            f"data.resolution={middle}" if middle < data.resolution else "",
        )


def _source_sizes(subject: Subject, check: Callable[[], None]) -> np.ndarray:
    """Width and height in px of some training images as the source has them, int64 (n, 2); only headers are read."""
    data = subject.recipe.data
    try:
        train = DOORS[data.kind](data, check).read().splits["train"]
        if data.kind == "folder":
            images = train.at(np.linspace(0, len(train) - 1, min(_MEASURED, len(train))).astype(np.int64))
        else:
            images = list(islice(train.images(), _MEASURED))
    except DataError:  # the source is gone or has changed since its images were decoded
        return np.empty((0, 2), dtype=np.int64)
    return np.array([size for image in images if (size := _size_of(image)) is not None], dtype=np.int64).reshape(-1, 2)


def _size_of(image: object) -> tuple[int, int] | None:
    """Width and height of an image file or of its bytes; None if it cannot be told."""
    if not isinstance(image, bytes | Path):
        return None
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.size
    except Exception:  # Pillow's decoders raise many kinds; what they cannot read is GU406
        return None
