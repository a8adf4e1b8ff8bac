"""From `DataSettings` to train, validation and test, and from there to batches.

Which split is which: a source with validation and test keeps both; one with a single labelled held-out split uses it
as test, whatever it is called; one with train alone gives 20% of each class to test. Validation is carved from train
by `data.validation`. Every such decision is a line in `Splits.notes`.

Images are uint8 in 0..255, stored (N, H, W, 3); batches are (B, 3, H, W) views of that layout, which torch calls
channels_last.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from groundup.basis.errors import DataError, UsageError, listed
from groundup.basis.seeding import generator, permutation, seed_from
from groundup.data.doors import DOORS
from groundup.data.pixels.cache import Cached, CachedSplit, open_cached
from groundup.data.pixels.on_demand import Pixels
from groundup.data.settings import CacheMode, DataSettings
from groundup.data.shards.stream import StreamImages, open_stream, whole_positions
from groundup.data.shards.windows import WindowedOrder
from groundup.data.sources import digest
from groundup.data.splits import stratified_choice, stratified_split

_TEST_SHARE = 0.2  # of a source that has no held-out split
_COPY_BYTES = 64 << 20  # copied to the device at once, so that the images are not in memory twice


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Image i of the set is `images[indices[i]]`, its label `labels[i]`.

    images: uint8 (M, H, W, 3), possibly memory-mapped or decoded on demand, and shared with other sets; labels, indices:
    int64 (N,), N <= M.
    """

    images: Pixels
    labels: np.ndarray
    indices: np.ndarray

    @classmethod
    def whole(cls, images: np.ndarray, labels: np.ndarray) -> "ImageSet":
        """All of `images`, uint8 (N, H, W, 3), with `labels`, whole numbers (N,)."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"images are {images.dtype} {images.shape}, labels {labels.shape}; allowed: uint8 (N, H, W, 3) and (N,)"
            )
        return cls(images, labels.astype(np.int64), np.arange(len(labels), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: np.ndarray) -> "ImageSet":
        """The images at `positions` of this set, int64 in 0..len-1, sharing the stored images."""
        return ImageSet(self.images, self.labels[positions], self.indices[positions])

    def read(self, positions: np.ndarray | slice) -> Tensor:
        """A copy of the images at `positions` of this set: uint8 (B, H, W, 3) in main memory."""
        return torch.from_numpy(
            self.images[self.indices[positions]]
        )  # fancy indexing copies, so the result is writable

    def blocks(self) -> Iterator[Tensor]:
        """All images in order, copied at most 64 MB at a time: uint8 (B, H, W, 3) in main memory."""
        rows = max(1, _COPY_BYTES // max(1, math.prod(self.images.shape[1:])))
        for start in range(0, len(self), rows):
            yield self.read(slice(start, start + rows))

    def to_device(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """A copy on `device`: images uint8 (N, H, W, 3), labels int64 (N,)."""
        store = torch.empty((len(self), *self.images.shape[1:]), dtype=torch.uint8, device=device)
        start = 0
        for block in self.blocks():
            store[start : start + len(block)].copy_(block)
            start += len(block)
        return store, self.labels_on(device)

    def labels_on(self, device: torch.device | str) -> Tensor:
        """A copy of the labels on `device`, int64 (N,)."""
        return torch.from_numpy(self.labels.copy()).to(device)


@dataclass(frozen=True, eq=False)
class Splits:
    """What a run trains, chooses and reports on. `image_size`: side in pixels; `fingerprint`: a hash of all images."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    classes: list[str]
    image_size: int
    fingerprint: str
    skipped: dict[str, str] = field(default_factory=dict)  # name of a damaged image -> what is wrong with it
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_arrays(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        classes: Sequence[str],
    ) -> "Splits":
        """Splits of your own arrays, for `groundup.train(..., data=...)`.

        Each split is (images, labels): uint8 (N, S, S, 3), of one side S everywhere, and whole numbers (N,) in 0..len(classes)-1.
        The fingerprint is a hash of all of them, so that a resume and an evaluation refuse other images. DataError says what does
        not fit.
        """
        given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
        parts, hashed = {}, hashlib.sha256()
        side = np.asarray(train[0]).shape[1:2]
        for name, (images, labels) in given.items():
            images, labels = np.ascontiguousarray(images), np.asarray(labels)
            parts[name] = ImageSet.whole(images, labels)
            if images.shape[1:3] != 2 * side or not len(images):
                raise DataError(f"{name}: images are {images.shape}; allowed: one or more, all square and of one size")
            if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
                raise DataError(
                    f"{name}: labels are {labels.dtype}, {labels.min()} to {labels.max()}; "
                    f"allowed: whole numbers from 0 to {len(classes) - 1}, the place in classes"
                )
            hashed.update(digest([name, images.shape]).encode())
            hashed.update(images.data)
            hashed.update(np.ascontiguousarray(labels, dtype=np.int64).data)
        hashed.update(digest(list(classes)).encode())
        parts_of = parts["train"], parts.get("validation"), parts["test"]
        return cls(*parts_of, list(classes), side[0], hashed.hexdigest()[:32])


def load_splits(
    settings: DataSettings,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> Splits:
    """Open the source, decode it if it is not in the cache, and split it.

    `check` is called at least every 100 images and may raise to interrupt: nothing half-done is left behind.
    `progress(done, total)` counts decoded images; it is not called when the cache has them. Of a stream it counts shards
    whose labels have to be found out.
    """
    source = DOORS[settings.kind](settings, check)
    open_source = open_stream if settings.streaming else open_cached
    return _divide(open_source(source, settings, check, progress), source.notes, settings, check)


def _divide(cached: Cached, of_source: list[str], settings: DataSettings, check: Callable[[], None]) -> Splits:
    notes = [*of_source, *cached.notes]
    whole = {name: _whole(split) for name, split in cached.splits.items()}
    train, validation, test = whole["train"], whole.get("validation"), whole.get("test")
    seed = settings.split_seed
    if validation is not None and test is not None and settings.validation > 0:
        raise UsageError(
            f"data.validation={settings.validation:g}: {settings.source} has a validation split of its own "
            f"({len(validation)} images)",
            hint="set data.validation=0 to use it; carving a second one would leave it unused",
        )
    if test is None and validation is not None:
        test, validation = validation, None
        notes.append("the source has one held-out split, called validation: it is used as the test split")
    elif test is None:
        kept, taken = stratified_split(train.labels, _TEST_SHARE, cached.classes, seed, "test", what="a test split")
        train, test = train.subset(kept), train.subset(taken)
        notes.append(
            f"the source has no held-out split: {_TEST_SHARE:.0%} of each class is the test split "
            f"(data.split_seed={seed})"
        )
    if settings.limit is not None and settings.limit < len(train):
        notes.append(f"train is limited to {settings.limit} of {len(train)} images (data.limit)")
        train = train.subset(stratified_choice(train.labels, settings.limit, seed, "limit"))
    if settings.validation > 0:
        kept, taken = stratified_split(
            train.labels, settings.validation, cached.classes, seed, "validation", what="a validation split"
        )
        train, validation = train.subset(kept), train.subset(taken)
        notes.append(f"validation is carved from train: {len(taken)} images, {len(kept)} left (data.split_seed={seed})")
    if settings.streaming and settings.on_bad_image == "skip":
        test = _without_damaged(test, "test", cached, check)
        validation = None if validation is None else _without_damaged(validation, "validation", cached, check)
    notes += _remarks(train, cached, settings)
    train = _with_substitutes(train)
    size = int(train.images.shape[1])
    return Splits(train, validation, test, cached.classes, size, cached.fingerprint, cached.skipped, notes)


def _remarks(train: ImageSet, cached: Cached, settings: DataSettings) -> list[str]:
    notes = []
    if cached.skipped:
        notes.append(f"{len(cached.skipped)} damaged images are left out (data.on_bad_image=skip)")
    counts = np.bincount(train.labels, minlength=len(cached.classes))
    if absent := [cached.classes[index] for index in np.flatnonzero(counts == 0)]:
        notes.append(f"{len(absent)} of {len(counts)} classes have no training images: {listed(absent, 10)}")
    if settings.resize != "squash" and settings.resolution is None:
        notes.append(f"data.resize={settings.resize} does nothing without data.resolution")
    return notes


def _with_substitutes(part: ImageSet) -> ImageSet:
    """The set, where another image of it stands in for a damaged one of a stream."""
    images = part.images
    return replace(part, images=images.within(part.indices)) if isinstance(images, StreamImages) else part


def _without_damaged(part: ImageSet, split: str, cached: Cached, check: Callable[[], None]) -> ImageSet:
    """The set without the damaged images of a stream: none may count in an evaluation, nor another one twice."""
    assert isinstance(part.images, StreamImages)
    kept = whole_positions(part.images, part.indices, f"{cached.fingerprint} {split}", check)
    if len(kept) == 0:
        raise DataError(
            f"none of the {len(part)} images of {split} can be read", hint="pack or download the data again"
        )
    return part if len(kept) == len(part) else part.subset(kept)


def windowed_order(part: ImageSet, window: int) -> WindowedOrder | None:
    """The order of a set of images in shards, `window` shards at a time; None for other sets, of which any image is at hand."""
    if not isinstance(part.images, StreamImages):
        return None
    places = part.images.shards
    # The set holds some of the images of the source, in their order.
    assert bool(np.all(np.diff(part.indices) > 0))
    return WindowedOrder(np.searchsorted(part.indices, places.starts), window, places.soon)


def some_positions(part: ImageSet, count: int, *seed: int | str) -> np.ndarray:
    """`count` positions in the set at random, int64; of a set in shards those of a few shards, so that not all have to be read."""
    if not isinstance(part.images, StreamImages):
        return permutation(len(part), *seed)[:count].numpy()
    order = WindowedOrder(np.searchsorted(part.indices, part.images.shards.starts), 1)
    return order.places(seed_from(*seed), 0, 0, min(count, len(part))).numpy()


def _whole(split: CachedSplit) -> ImageSet:
    return ImageSet(split.images, split.labels.astype(np.int64), np.arange(len(split.labels), dtype=np.int64))


class MemoryLoader:
    """Batches of a set's images on a device. `cache` says where the pixels wait; the batches are the same, bit for bit.

    device: all of them on the device (N * H * W * 3 bytes), where batches are gathered; host: in main memory; disk and
    none: where the set has them, which reads a memory-mapped file or decodes (see `DataSettings.cache`). Where batches
    come from main memory to a GPU they pass through pinned memory, so that the copy does not wait for the GPU.
    """

    def __init__(self, image_set: ImageSet, device: torch.device | str, cache: CacheMode = "device") -> None:
        self._set = image_set
        self._device = torch.device(device)
        self._labels = image_set.labels_on(device)
        self._on_device = image_set.to_device(device)[0] if cache == "device" else None
        self._on_host = image_set.to_device("cpu")[0] if cache == "host" else None

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """int64 (N,), on the device."""
        return self._labels

    @property
    def gathers_on_device(self) -> bool:
        """Whether `take` is best given indices on the device; else on the CPU, so that nobody waits for them."""
        return self._on_device is not None

    def some(self, count: int, *seed: int | str) -> Tensor:
        """`count` positions at random, int64 on the CPU; see `some_positions`."""
        return torch.from_numpy(some_positions(self._set, count, *seed))

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `indices`, int64 (B,): uint8 (B, 3, H, W) in channels_last layout, and labels int64 (B,)."""
        there = sent(indices, self._device)
        # Those on the device only where they are wanted there: indices that came back would have to be waited for.
        return self._gathered(there if self.gathers_on_device else indices), self._labels.index_select(0, there)

    def _gathered(self, indices: Tensor) -> Tensor:
        """The images at `indices`: uint8 (B, 3, H, W) in channels_last layout."""
        if self._on_device is not None:
            images = self._on_device.index_select(0, sent(indices, self._device))
        elif self._on_host is not None:
            # Gathered where the copy to a GPU starts. torch keeps a pinned block until that copy is done.
            shape = len(indices), *self._on_host.shape[1:]
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            torch.index_select(self._on_host, 0, indices.cpu(), out=images)
            images = sent(images, self._device)
        else:
            images = self._sent(self._set.read(indices.cpu().numpy()))
        return images.permute(0, 3, 1, 2)

    def side(self, step: int) -> int:
        """Side in px of the images that `training` gives for update number `step`."""
        return int(self._set.images.shape[1])

    def training(self, indices: Tensor, step: int) -> Tensor:
        """The images at `indices`, int64 (B,), for update number `step`: uint8 (B, 3, S, S) in channels_last layout.

        Here they are what `take` gives; `DecodingLoader` may cut windows out of them."""
        return self._gathered(indices)

    @property
    def keeps_waiting(self) -> bool:
        """Whether images may be long in coming, so that `wait` is worth its while."""
        return False

    def wait(self, step: int, given_up: Callable[[], bool]) -> None:
        """Return when `training` will find the first images of update number `step` ready, or when `given_up()`."""

    def close(self) -> None:
        """End what works ahead of the loop, if anything does."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, as `take` gives them, without copies on the device; the last batch may be short. For evaluation."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            if self._on_device is not None:
                images = self._on_device[part]
            else:
                images = self._sent(self._set.read(part) if self._on_host is None else self._on_host[part])
            yield images.permute(0, 3, 1, 2), self._labels[part]

    def _sent(self, images: Tensor) -> Tensor:
        # torch keeps a pinned block until the copy out of it is done.
        pinned = images.pin_memory() if self._device.type == "cuda" else images
        return sent(pinned, self._device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. Nobody waits for the copy to a CUDA GPU, which keeps what it copies from until it is done; elsewhere
    such a copy may be read before it has arrived, or made from memory that holds something else by then."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def epoch_order(seed: int, epoch: int, count: int, weights: Tensor | None = None) -> Tensor:
    """The order of the samples in an epoch, int64 (count,) on the CPU: a pure function of its arguments.

    Without weights a permutation; with `weights` (count,) as many draws with replacement in proportion to them,
    for balanced sampling.
    """
    if weights is None:
        return permutation(count, seed, "order", epoch)
    if weights.shape != (count,):
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected ({count},)")
    return torch.multinomial(weights.double().cpu(), count, replacement=True, generator=generator(seed, "order", epoch))


def batches_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """How many batches an epoch of `count` samples has."""
    return count // batch_size if drop_last else -(-count // batch_size)


def batch_indices(order: Tensor, batch_size: int, position: int, drop_last: bool) -> Tensor:
    """The samples of batch number `position` (0-based) of an epoch, int64 (B,); only a last batch is short."""
    count = batches_per_epoch(len(order), batch_size, drop_last)
    if not 0 <= position < count:
        raise IndexError(f"batch {position} of an epoch with {count} batches")
    return order[position * batch_size : (position + 1) * batch_size]
