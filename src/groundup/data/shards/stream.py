"""A source in shards, opened as a run sees it: labels at once, pixels when they are asked for.

Nothing is decoded beforehand. So a damaged image is met when its turn comes and ends the run. With data.on_bad_image=skip the
next whole image of the same class stands in for one in training, the same one every time; `replaced` names them as they are met.
What is evaluated has no substitutes: validation and test are then decoded once beforehand, and damaged images left out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from groundup.basis.errors import DataError
from groundup.basis.files import cache_home, write_json
from groundup.data.pixels.cache import Cached, CachedSplit, labelled, locked
from groundup.data.pixels.decode import UnreadableImage, decode_image, decode_threads
from groundup.data.pixels.on_demand import SourceImages
from groundup.data.settings import DataSettings
from groundup.data.sources import RawImage, ShardPlaces, Source, SourceSplit, digest

_TRIES = 100  # images that are looked at in search of a whole one
_AT_ONCE = 256  # images that are checked between two checks for an interruption


class _Every:
    """All positions of a split, each its own number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return positions


class StreamImages(SourceImages):
    """The images of a split in shards, all of one `size`, (H, W, 3). `members`: sorted positions among which substitutes are
    looked for, None: there are none; `replaced`: what is wrong with the images that were found damaged, by name."""

    def __init__(
        self,
        source: Source,
        split: SourceSplit,
        settings: DataSettings,
        size: tuple[int, ...],
        replaced: dict[str, str],
        members: np.ndarray | None = None,
    ) -> None:
        super().__init__(source, split, _Every(len(split)), settings, size)  # type: ignore[arg-type]
        self._members, self.replaced = members, replaced

    @property
    def shards(self) -> ShardPlaces:
        """Where the shards begin."""
        assert self._split.shards is not None
        return self._split.shards

    def within(self, members: np.ndarray) -> "StreamImages":
        """The same images, where the substitutes come from `members`, sorted int64: a validation image never trains."""
        return StreamImages(self._source, self._split, self._settings, self.shape[1:], self.replaced, members)

    def damaged_among(self, positions: np.ndarray, check: Callable[[], None]) -> dict[int, str]:
        """What is wrong with those of the images at `positions`, int64 (B,), that cannot be decoded. All of them are."""

        def wrong(raw: RawImage, position: int) -> str | None:
            try:
                decode_image(raw, self.name(position), resolution=self._settings.resolution)
            except UnreadableImage as error:
                return error.reason
            return None

        found: dict[int, str] = {}
        with ThreadPoolExecutor(decode_threads(), thread_name_prefix="groundup-check") as pool:
            for start in range(0, len(positions), _AT_ONCE):
                check()
                some = positions[start : start + _AT_ONCE]
                reasons = pool.map(wrong, self.encoded(some), some.tolist())
                found |= {at: reason for at, reason in zip(some.tolist(), reasons, strict=True) if reason is not None}
        return found

    def decode_into(self, raw: Sequence[RawImage], positions: np.ndarray, images: np.ndarray) -> None:
        """As `SourceImages`; damaged images are replaced if they are to be skipped."""
        for index, position in enumerate(positions.tolist()):
            part = slice(index, index + 1)
            try:
                super().decode_into(raw[part], positions[part], images[part])
            except UnreadableImage as error:
                super().decode_into([self.instead(position, error)], positions[part], images[part])

    def instead(self, position: int, error: UnreadableImage) -> RawImage:
        """What stands in for the damaged image at `position`, still encoded: a function of the data alone. Raises `error` if
        nothing may."""
        if self._settings.on_bad_image == "fail" or self._members is None:
            raise error
        self.replaced[self.name(position)] = error.reason
        for other in islice(self._of_its_class(position), _TRIES):
            raw = self.encoded(np.array([other]))[0]
            try:
                decode_image(raw, self.name(other), resolution=self._settings.resolution)
            except UnreadableImage as next_error:
                self.replaced[self.name(other)] = next_error.reason
            else:
                return raw
        raise error

    def _of_its_class(self, position: int) -> Iterator[int]:
        """The other images of its class, from the next one on."""
        labels, members = self._split.labels, self._members
        assert members is not None
        start = int(np.searchsorted(members, position))
        for step in range(1, len(members)):
            other = int(members[(start + step) % len(members)])
            if labels[other] == labels[position]:
                yield other

    def other_size(self, name: str, size: tuple[int, ...]) -> DataError:
        return DataError(
            f"{name} is {size[1]}x{size[0]} pixels, and the first is {self.shape[2]}x{self.shape[1]}",
            hint="set data.resolution (and data.resize) to bring the images to one size",
        )


def whole_positions(images: StreamImages, positions: np.ndarray, key: str, check: Callable[[], None]) -> np.ndarray:
    """Where in `positions`, int64 (B,), images lie that can be decoded: int64, sorted. The others are noted in `images.replaced`.
    Found out once and kept. `key`: tells the split and what is in it."""
    path = cache_home() / "shard-index" / f"damaged-{digest([key, positions.tolist()])}.json"
    if (damaged := _read_damaged(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, check):
            if (damaged := _read_damaged(path)) is None:
                damaged = images.damaged_among(positions, check)
                write_json(path, {str(position): reason for position, reason in damaged.items()})
    images.replaced.update({images.name(position): reason for position, reason in damaged.items()})
    return np.flatnonzero(~np.isin(positions, list(damaged)))


def _read_damaged(path: Path) -> dict[int, str] | None:
    try:
        return {int(position): str(reason) for position, reason in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return None


def open_stream(
    source: Source, settings: DataSettings, check: Callable[[], None], progress: Callable[[int, int], None] | None
) -> Cached:
    """The splits of a source in shards. `progress(done, total)` counts shards whose labels had to be found out."""
    if source.prepare:
        source.prepare(progress)
    check()
    contents = source.read()
    splits, notes = labelled(contents, source)
    replaced: dict[str, str] = {}
    size = _size(splits["train"], source, settings)
    opened = {
        name: CachedSplit(StreamImages(source, split, settings, size, replaced), split.labels)
        for name, split in splits.items()
    }
    decoding = [settings.resolution, settings.resize if settings.resolution else None]
    return Cached(contents.classes, opened, replaced, notes, digest([contents.identity, decoding]))


def _size(train: SourceSplit, source: Source, settings: DataSettings) -> tuple[int, ...]:
    """(H, W, 3) of the images: data.resolution, else as large as the first that is whole."""
    if settings.resolution is not None:
        return settings.resolution, settings.resolution, 3
    for position in range(min(_TRIES, len(train))):
        name = source.located(train.name(position))
        try:
            first = decode_image(train.at(np.array([position]))[0], name, resolution=None)
        except UnreadableImage:
            if settings.on_bad_image == "fail":
                raise
            continue
        if first.shape[0] != first.shape[1]:
            raise DataError(
                f"{name} is {first.shape[1]}x{first.shape[0]} pixels, not square",
                hint="set data.resolution (and data.resize) to bring the images to one size",
            )
        return first.shape
    raise DataError(
        f"none of the first {min(_TRIES, len(train))} training images can be read, the last is {name}",
        hint="look at them with another program, or pack the data again",
    )
