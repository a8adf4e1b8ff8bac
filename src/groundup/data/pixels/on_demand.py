"""Images that are decoded from their source each time they are asked for: no file of pixels, nothing kept.

In: positions, int64 (B,). Out: uint8 (B, H, W, 3). A pool of threads decodes (Pillow's decoders run side by side).
The same decoding as for the cache, so the same pixels. Augmented samples pass through `decoding_loader.py`, which asks here for
images that are still encoded.
"""

import functools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from groundup.basis.errors import DataError
from groundup.data.pixels.decode import UnreadableImage, decode_image, decode_threads
from groundup.data.settings import DataSettings, Resize
from groundup.data.sources import RawImage, Source, SourceSplit

# A source need not stand two readers at once, and several sets of images may be of one source.
_READING = threading.Lock()
_CHUNK = 32  # images per task: a task costs about as much as decoding one small image


def _threads() -> ThreadPoolExecutor:
    """The threads of this process, which stay for the next batch. The processes of torchrun on this machine share its cores."""
    return _kept_threads(os.getpid(), decode_threads(max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))


@functools.cache
def _kept_threads(process: int, count: int) -> ThreadPoolExecutor:
    # `process`: a copy of this one by fork has no threads.
    return ThreadPoolExecutor(count, thread_name_prefix="groundup-batch")


class Pixels(Protocol):
    """Images, uint8 (M, H, W, 3), of which some are read at a time: an array, or `SourceImages`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, H, W, 3)."""

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        """A copy of the images at `positions`, int64 (B,): uint8 (B, H, W, 3)."""


class SourceImages:
    """The images of a split that were found whole (`kept`: their positions in the source), all of one `size`, (H, W, 3)."""

    def __init__(
        self, source: Source, split: SourceSplit, kept: np.ndarray, settings: DataSettings, size: tuple[int, ...]
    ) -> None:
        self._source, self._split, self._kept, self._settings = source, split, kept, settings
        self.shape: tuple[int, ...] = (len(kept), *size)

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        """DataError if an image is not any more what it was when the source was first read."""
        raw = self.encoded(positions)
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)

        def decode(start: int) -> None:
            part = slice(start, start + _CHUNK)
            self.decode_into(raw[part], positions[part], images[part])

        list(_threads().map(decode, range(0, len(positions), _CHUNK)))  # a list, so that errors are raised
        return images

    @property
    def resize(self) -> Resize:
        """How a whole image is brought to another size."""
        return self._settings.resize

    def encoded(self, positions: np.ndarray) -> list[RawImage]:
        """The images at `positions`, int64 (B,), as the source has them."""
        with _READING:
            return self._split.at(self._kept[positions])

    def name(self, position: int) -> str:
        """What image number `position` is called in messages."""
        return self._source.located(self._split.name(int(self._kept[position])))

    def instead(self, position: int, error: UnreadableImage) -> RawImage:
        """What stands in for an image that turned out damaged. Here nothing does: they were left out when all were checked."""
        raise error

    def decode_into(self, raw: Sequence[RawImage], positions: np.ndarray, images: np.ndarray) -> None:
        """Decode `raw`, the images at `positions`, into `images`, uint8 (B, H, W, 3), as the cache would hold them."""
        for index, (encoded, position) in enumerate(zip(raw, positions.tolist(), strict=True)):
            name = self.name(position)
            image = decode_image(encoded, name, resolution=self._settings.resolution, resize=self._settings.resize)
            if image.shape != self.shape[1:]:
                raise self.other_size(name, image.shape)
            images[index] = image

    def other_size(self, name: str, size: tuple[int, ...]) -> DataError:
        """The error for an image of another `size`, (H, W, 3), than the set has."""
        return DataError(
            f"{name} is {size[1]}x{size[0]} pixels, and was {self.shape[2]}x{self.shape[1]}",
            hint="the source was changed while it was read; start again",
        )
