"""A source in shards, opened as a run sees it: labels at once, pixels when they are asked for.

Nothing is decoded beforehand. So a damaged image is met when its turn comes: it ends the run, or with data.on_bad_image=skip the
next whole image of the same class stands in for it, the same one every time; `replaced` names them as they are met.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from groundup.basis.errors import DataError
from groundup.data.cache import Cached, CachedSplit, labelled
from groundup.data.decode import UnreadableImage, decode_image
from groundup.data.on_demand import SourceImages
from groundup.data.settings import DataSettings
from groundup.data.sources import RawImage, ShardPlaces, Source, SourceSplit, digest

_TRIES = 100  # images that are looked at in search of a whole one


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
    looked for, None: all; `replaced`: what is wrong with the images that were found damaged, by name."""

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
        if self._settings.on_bad_image == "fail":
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
        count = len(labels) if members is None else len(members)
        start = position if members is None else int(np.searchsorted(members, position))
        for step in range(1, count):
            other = (start + step) % count if members is None else int(members[(start + step) % count])
            if labels[other] == labels[position]:
                yield other


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
    """(H, W, 3) of the images: data.resolution, else as large as the first."""
    if settings.resolution is not None:
        return settings.resolution, settings.resolution, 3
    first = decode_image(train.at(np.array([0]))[0], source.located(train.name(0)), resolution=None)
    if first.shape[0] != first.shape[1]:
        raise DataError(
            f"{source.located(train.name(0))} is {first.shape[1]}x{first.shape[0]} pixels, not square",
            hint="set data.resolution (and data.resize) to bring the images to one size",
        )
    return first.shape
