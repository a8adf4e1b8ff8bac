"""The order in which an epoch of a stream is read: shards in a random order, some at a time, their images shuffled together.

Where one window holds all shards, the order is that of any other source (`loading.epoch_order`).

In: where the shards begin (positions in the set, int64 (S + 1,)), how many make a window. Out: positions of the images at any
places of any epoch. A pure function of (seed, epoch, shards): nothing is remembered between steps, so a resume in the middle of
a window rebuilds that window and no other. In memory is the order of the shards and of two windows, not that of the epoch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from groundup.basis.seeding import permutation


class WindowedOrder:
    """`starts`: where each shard begins, and at the end how many images there are; `soon` is told which shards come next."""

    def __init__(
        self, starts: np.ndarray, window: int, soon: Callable[[Sequence[int]], None] = lambda shards: None
    ) -> None:
        self._starts, self._window, self._soon = starts, window, soon
        self._epoch: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None
        self._windows: dict[tuple[int, int, int], Tensor] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def places(self, seed: int, epoch: int, first: int, last: int) -> Tensor:
        """The images at places `first`..`last` - 1 of the epoch: int64 positions in the set."""
        shards, bounds = self._shards_of(seed, epoch)
        window = int(np.searchsorted(bounds, first, side="right")) - 1
        parts = []
        while first < last:
            start, end = int(bounds[window]), int(bounds[window + 1])
            images = self._images(seed, epoch, window, shards)
            parts.append(images[first - start : min(last, end) - start])
            first = min(last, end)
            window += 1
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _shards_of(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in the order of the epoch, and where its windows begin and end: int64 (S,) and (W + 1,)."""
        if self._epoch is None or self._epoch[0] != (seed, epoch):
            shards = permutation(len(self._starts) - 1, seed, "shards", epoch).numpy()
            counts = np.diff(self._starts)[shards]
            per_window = np.add.reduceat(counts, np.arange(0, len(shards), self._window))
            self._epoch = ((seed, epoch), shards, np.cumsum([0, *per_window.tolist()], dtype=np.int64))
        return self._epoch[1], self._epoch[2]

    def _images(self, seed: int, epoch: int, window: int, shards: np.ndarray) -> Tensor:
        key = (seed, epoch, window)
        if key not in self._windows:
            chosen = shards[window * self._window : (window + 1) * self._window]
            positions, order = self._drawn(seed, epoch, window, chosen)
            while len(self._windows) > 1:  # the one before this is needed where a batch lies in both
                self._windows.pop(next(iter(self._windows)))
            self._windows[key] = torch.from_numpy(positions)[order]
            self._soon(self._next(seed, epoch, window, shards))
        return self._windows[key]

    def _drawn(self, seed: int, epoch: int, window: int, shards: np.ndarray) -> tuple[np.ndarray, Tensor]:
        if len(shards) == len(self._starts) - 1:  # all in one window: the order of data of which any image is at hand
            return np.arange(len(self)), permutation(len(self), seed, "order", epoch)
        positions = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in shards])
        return positions, permutation(len(positions), seed, "window", epoch, window)

    def _next(self, seed: int, epoch: int, window: int, shards: np.ndarray) -> list[int]:
        start = (window + 1) * self._window
        if start >= len(shards):
            shards, start = permutation(len(shards), seed, "shards", epoch + 1).numpy(), 0
        soon = (int(shard) for shard in shards[start : start + self._window])
        return [
            shard for shard in soon if self._starts[shard] < self._starts[shard + 1]
        ]  # a part of a set may want none of it
