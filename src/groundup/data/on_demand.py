"""Images that are decoded from their source each time they are asked for: no file of pixels, nothing kept.

In: positions, int64 (B,). Out: uint8 (B, H, W, 3). A pool of threads decodes (Pillow's decoders run side by side).
The same decoding as for the cache, so the same pixels; augmented samples never pass here.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from groundup.basis.errors import DataError
from groundup.data.decode import decode_image, decode_threads
from groundup.data.settings import DataSettings
from groundup.data.sources import RawImage, Source, SourceSplit

_CHUNK = 32  # images per task: a task costs about as much as decoding one small image


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
        wanted = self._kept[positions]
        raw = self._split.at(wanted)
        images = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)

        def decode(start: int) -> None:
            part = slice(start, start + _CHUNK)
            self._decode(raw[part], wanted[part].tolist(), images[part])

        list(_pool().map(decode, range(0, len(wanted), _CHUNK)))  # a list, so that errors are raised
        return images

    def _decode(self, raw: Sequence[RawImage], positions: Sequence[int], images: np.ndarray) -> None:
        for index, (encoded, position) in enumerate(zip(raw, positions, strict=True)):
            name = self._source.located(self._split.name(position))
            image = decode_image(encoded, name, resolution=self._settings.resolution, resize=self._settings.resize)
            if image.shape != self.shape[1:]:
                raise DataError(
                    f"{name} is {image.shape[1]}x{image.shape[0]} pixels, and was {self.shape[2]}x{self.shape[1]}",
                    hint="the source was changed while it was read; start again",
                )
            images[index] = image


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(decode_threads(), thread_name_prefix="groundup-batch")
