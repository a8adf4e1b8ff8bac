"""Data: doors to image sources, decoding into a cache on disk, splits by seed, and batches from memory, disk or source."""

from groundup.data.decoding_loader import DecodingLoader, Upcoming, Windows
from groundup.data.doors import DOORS
from groundup.data.loading import (
    ImageSet,
    MemoryLoader,
    Splits,
    batch_indices,
    batches_per_epoch,
    epoch_order,
    load_splits,
    sent,
    some_positions,
    windowed_order,
)
from groundup.data.pixels.decode import UnreadableImage, decode_image
from groundup.data.pixels.on_demand import SourceImages
from groundup.data.settings import CacheMode, DataSettings, Resize
from groundup.data.shards.windows import WindowedOrder

__all__ = [
    "DOORS",
    "CacheMode",
    "DataSettings",
    "DecodingLoader",
    "ImageSet",
    "MemoryLoader",
    "Resize",
    "SourceImages",
    "Splits",
    "UnreadableImage",
    "Upcoming",
    "WindowedOrder",
    "Windows",
    "batch_indices",
    "batches_per_epoch",
    "decode_image",
    "epoch_order",
    "load_splits",
    "sent",
    "some_positions",
    "windowed_order",
]
