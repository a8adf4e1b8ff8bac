"""Data: doors to image sources, decoding into a cache on disk, splits by seed, and batches from memory, disk or source."""

from groundup.data.decode import UnreadableImage, decode_image
from groundup.data.doors import DOORS
from groundup.data.loading import (
    ImageSet,
    MemoryLoader,
    Splits,
    batch_indices,
    batches_per_epoch,
    epoch_order,
    load_splits,
)
from groundup.data.settings import CacheMode, DataSettings, Resize

__all__ = [
    "DOORS",
    "CacheMode",
    "DataSettings",
    "ImageSet",
    "MemoryLoader",
    "Resize",
    "Splits",
    "UnreadableImage",
    "batch_indices",
    "batches_per_epoch",
    "decode_image",
    "epoch_order",
    "load_splits",
]
