"""The sample order of a run: which images belong to which step, a function of (seed, epoch) and nothing else."""

import functools

import torch
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.data import WindowedOrder, batch_indices, batches_per_epoch, epoch_order


class SampleOrder:
    """Indices of every step's batch. `labels`: int64 (N,) on the CPU, used by `balanced` sampling only; `windows`: the order of
    images in shards, None where any image is at hand."""

    def __init__(
        self,
        seed: int,
        labels: Tensor,
        *,
        batch_size: int,
        drop_last: bool,
        balanced: bool,
        windows: WindowedOrder | None = None,
    ) -> None:
        if batch_size > len(labels):
            raise UsageError(
                f"train.batch_size={batch_size}: larger than the training split ({len(labels)} images); "
                f"allowed: 1 to {len(labels)}",
                # A tenth, but not so few that batch norm has nothing to take its statistics from.
                hint=f"set train.batch_size={min(len(labels), max(8, len(labels) // 10))}",
            )
        self._seed, self._batch_size, self._drop_last = seed, batch_size, drop_last
        self._count = len(labels)
        # Each class is drawn equally often: an image weighs one over the size of its class.
        self._weights = 1.0 / torch.bincount(labels)[labels].double() if balanced else None
        if windows is not None and balanced:
            raise UsageError(
                "train.sampling='balanced': a stream is read shard after shard and cannot draw its images from all of them",
                hint="set train.sampling=shuffle, or loss.class_weights",
            )
        self.windows = windows
        # Two: near the end of an epoch the loader, which decodes ahead, asks for the next one while the loop asks for this one.
        self._drawn = functools.lru_cache(2)(lambda epoch: epoch_order(seed, epoch, self._count, self._weights))
        self.steps_per_epoch = batches_per_epoch(self._count, batch_size, drop_last)

    def at(self, step: int) -> tuple[int, Tensor]:
        """(epoch, int64 (B,) indices on the CPU) of optimizer update number `step`, both 0-based."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.windows is not None:
            start = place * self._batch_size
            return epoch, self.windows.places(self._seed, epoch, start, min(start + self._batch_size, self._count))
        return epoch, batch_indices(self._drawn(epoch), self._batch_size, place, self._drop_last)
