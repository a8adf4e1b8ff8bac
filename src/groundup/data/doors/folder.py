"""The door `folder:DIR`: one folder per class.

Either DIR/train/CLASS/*.png with val (or valid, validation, dev) and test beside train, or DIR/CLASS/*.png. Images
are found by their extension in any case, in folders below CLASS too; other files are counted in a note, hidden ones are not. Class
names are the folder names, sorted; folders that are called as ImageNet's (n01440764) keep that order and get the names of those
classes.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.data.imagenet import spoken_names
from groundup.data.pixels.decode import EXTENSIONS
from groundup.data.settings import DataSettings
from groundup.data.sources import (
    Contents,
    RawImage,
    Source,
    SourceSplit,
    SplitName,
    digest,
    existing_folder,
    split_called,
)

_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what macOS and Windows leave in folders


@dataclass(frozen=True)
class _File:
    name: str  # relative to the source, with forward slashes
    size: int  # bytes
    modified: int  # nanoseconds


_Listing = dict[str, list[_File]]  # class name -> its images


def open_folder(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `folder:DIR`. Its fingerprint is made of relative paths, sizes and modification times."""
    root = existing_folder(settings.place, settings.source)
    shown = settings.place.rstrip("/")
    folders, notes = _layout(root, shown)
    unread: list[str] = []
    listings = {split: _list_classes(root, folder, shown, check, unread) for split, folder in folders.items()}
    classes = list(listings["train"])
    for split, listing in listings.items():
        if extra := sorted(set(listing) - set(classes)):
            raise DataError(
                f"{shown}/{folders[split].name}: classes that train does not have: {listed(extra)}; "
                f"train has {listed(classes)}"
            )
        if absent := sorted(set(classes) - set(listing)):
            notes.append(f"{folders[split].name} has no folder for {len(absent)} of the classes: {listed(absent, 10)}")
    if unread:
        notes.append(_unread_note(unread))
    state = {
        split: [[file.name, file.size, file.modified] for files in listing.values() for file in files]
        for split, listing in listings.items()
    }
    return Source(
        digest(["folder", spoken_names(classes), state]),
        lambda: _read(root, classes, listings),
        root=shown,
        notes=notes,
    )


def _layout(root: Path, shown: str) -> tuple[dict[SplitName, Path], list[str]]:
    """Which folder holds which split; a folder without any split folders is all train."""
    inside = _subfolders(root)
    if not inside:
        loose = sum(1 for entry in root.iterdir() if _is_image(entry.name))
        what = f"holds {loose} images but no class folders" if loose else "is empty"
        raise DataError(
            f"folder {shown} {what}", hint="put the images of each class into a folder of its own: DIR/CLASS/image.png"
        )
    splits: dict[SplitName, Path] = {}
    for folder in inside:
        split = split_called(folder.name)
        if split is None:
            continue
        if split in splits:
            raise DataError(
                f"folder {shown} has two {split} splits: {splits[split].name} and {folder.name}", hint="keep one"
            )
        splits[split] = folder
    if not splits:
        return {"train": root}, []
    if "train" not in splits:
        raise DataError(f"folder {shown} has {listed(folder.name for folder in splits.values())} but no train")
    unread = [folder.name for folder in inside if folder not in splits.values()]
    return splits, [f"folders that are no split and are not read: {listed(unread)}"] if unread else []


def _unread_note(unread: list[str]) -> str:
    kinds = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in unread)
    counts = listed((f"{count} of {kind}" for kind, count in kinds.most_common()), 5)
    return f"files that are not read, by the endings of their names: {counts} (such as {min(unread)})"


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and os.path.splitext(name)[1].lower() in EXTENSIONS


def _list_classes(root: Path, folder: Path, shown: str, check: Callable[[], None], unread: list[str]) -> _Listing:
    """The images of every class folder; the names of what is no image are added to `unread`."""
    listing: _Listing = {}
    for class_folder in _subfolders(folder):
        check()
        listing[class_folder.name] = _list_images(root, class_folder, unread)
    where = shown if folder == root else f"{shown}/{folder.name}"
    if not listing:
        raise DataError(
            f"folder {where} has no class folders", hint="put the images of each class into a folder of its own"
        )
    if empty := [name for name, files in listing.items() if not files]:
        raise DataError(
            f"folder {where}: no images in class {listed(empty)}; read are {listed(sorted(EXTENSIONS))}",
            hint="remove the folder or put images into it",
        )
    return listing


def _list_images(root: Path, class_folder: Path, unread: list[str]) -> list[_File]:
    files = []
    for parent, folders, names in os.walk(class_folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            path = Path(parent, name)
            if not _is_image(name):
                unread += [] if _is_hidden(name) else [path.relative_to(root).as_posix()]
                continue
            status = path.stat()
            files.append(_File(path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files, key=lambda file: file.name)


def _read(root: Path, classes: list[str], listings: dict[SplitName, _Listing]) -> Contents:
    splits: dict[SplitName, SourceSplit] = {}
    for split, listing in listings.items():
        names = [file.name for files in listing.values() for file in files]
        labels = np.repeat([classes.index(name) for name in listing], [len(files) for files in listing.values()])
        splits[split] = SourceSplit(labels.astype(np.int64), _images(root, names), names.__getitem__, _at(root, names))
    return Contents(spoken_names(classes), splits)


def _images(root: Path, names: list[str]) -> Callable[[], Iterator[RawImage]]:
    return lambda: (root / name for name in names)


def _at(root: Path, names: list[str]) -> Callable[[np.ndarray], list[RawImage]]:
    return lambda positions: [root / names[position] for position in positions]
