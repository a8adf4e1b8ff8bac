"""The door `arrays:FILE.npz`: images and labels as numpy arrays.

Keys: x_train, y_train and, if there are any, x_validation, y_validation, x_test, y_test, classes. Images are uint8 of
shape (N, H, W), (N, H, W, 1) or (N, H, W, 3); labels are whole numbers or names (N,); classes are names (K,).
The file is read with `allow_pickle=False`: it cannot run code.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from groundup.basis.errors import DataError, listed, nearest
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings
from groundup.data.sources import Contents, MissingSource, RawImage, Source, SourceSplit, SplitName, digest

_SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_KEYS = [*(f"{letter}_{split}" for split in _SPLITS for letter in "xy"), "classes"]


def open_arrays(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `arrays:FILE.npz`. Its fingerprint is made of the checksums that the file itself carries."""
    file = Path(settings.place).expanduser()
    if not file.is_file():
        raise MissingSource(
            f"data.source={settings.source!r}: there is no file {settings.place}",
            hint="check the path; it is relative to where you are",
        )
    try:
        with zipfile.ZipFile(file) as archive:
            members = {
                entry.filename.removesuffix(".npy"): [entry.file_size, entry.CRC] for entry in archive.infolist()
            }
    except zipfile.BadZipFile as error:
        raise DataError(f"{settings.place} is not an .npz file: {error}", hint="write it with numpy.savez") from error
    _check_keys(list(members), settings.place)
    return Source(digest(["arrays", members]), lambda: _read(file, settings.place), root=settings.place)


def _check_keys(keys: list[str], shown: str) -> None:
    for key in keys:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            raise DataError(
                f"{shown} holds an array {key!r}; allowed: {listed(_KEYS)}",
                hint=f"did you mean {near!r}?" if near else None,
            )
    for split in _SPLITS:
        wanted = [f"x_{split}", f"y_{split}"]
        present = [key for key in wanted if key in keys]
        if present != wanted and (present or split == "train"):
            missing = next(key for key in wanted if key not in keys)
            raise DataError(f"{shown} has no array {missing!r}; it holds {listed(keys) or 'nothing'}")


def _read(file: Path, shown: str) -> Contents:
    with np.load(file, allow_pickle=False) as stored:
        splits = [split for split in _SPLITS if f"x_{split}" in stored]
        raw = {split: _labels(_load(stored, f"y_{split}", shown), f"y_{split}", shown) for split in splits}
        images = {split: _images(_load(stored, f"x_{split}", shown), f"x_{split}", shown) for split in splits}
        names = [str(name) for name in _load(stored, "classes", shown)] if "classes" in stored else None
    for split in splits:
        if len(images[split]) != len(raw[split]):
            raise DataError(
                f"{shown}: x_{split} has {len(images[split])} images, y_{split} has {len(raw[split])} labels"
            )
    classes, labels = encode_labels(raw, names)
    found = {
        split: SourceSplit(labels[split], _each(images[split]), _namer(split), _at(images[split])) for split in splits
    }
    return Contents(classes, found)


def _load(stored: "np.lib.npyio.NpzFile", key: str, shown: str) -> np.ndarray:
    try:
        return np.asarray(stored[key])
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{shown}: array {key!r} cannot be read: {error}") from error


def _labels(values: np.ndarray, key: str, shown: str) -> np.ndarray:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{shown}: {key} has shape {values.shape}; labels have shape (N,)", hint="one-hot labels: use y.argmax(1)"
        )
    return values


def _images(values: np.ndarray, key: str, shown: str) -> np.ndarray:
    if values.dtype != np.uint8:
        raise DataError(
            f"{shown}: {key} is {values.dtype}; images are uint8",
            hint="values in 0..1: (x * 255).round().astype('uint8')",
        )
    if values.ndim == 3 or (values.ndim == 4 and values.shape[3] in (1, 3)):
        return values
    raise DataError(
        f"{shown}: {key} has shape {values.shape}; images have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)",
        hint="channels first? use x.transpose(0, 2, 3, 1)" if values.ndim == 4 and values.shape[1] in (1, 3) else None,
    )


def _each(images: np.ndarray) -> Callable[[], Iterator[RawImage]]:
    return lambda: iter(images)


def _at(images: np.ndarray) -> Callable[[np.ndarray], list[RawImage]]:
    return lambda positions: list(images[positions])


def _namer(split: SplitName) -> Callable[[int], str]:
    return lambda index: f"x_{split}[{index}]"
