"""The superclass of each class, where the data has a second label: `coarse_label` beside `fine_label`, as CIFAR-100 on the Hub.

The column is the one called like the label with "coarse" for "fine". Only the two columns of the training split are read, not the
images. Superclasses are positions in `names`, int in [0, K).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from groundup.basis.errors import GroundupError
from groundup.data.columns import LabelColumns, find_columns
from groundup.data.doors.hub import hub_labels
from groundup.data.doors.parquet import parquet_labels
from groundup.data.labels import encode_labels
from groundup.data.settings import DataSettings

_READERS: dict[str, Callable[[DataSettings, Callable[[], None]], LabelColumns]] = {
    "hub": hub_labels,
    "parquet": parquet_labels,
}


@dataclass(frozen=True)
class Superclasses:
    """`of_class[c]` is the superclass of class c, a position in `names`."""

    names: list[str]
    of_class: list[int]


def read_superclasses(
    settings: DataSettings, classes: Sequence[str], check: Callable[[], None] = lambda: None
) -> Superclasses | None:
    """The superclasses of `classes`; None where the source has no such column, or a class lies in several superclasses."""
    if settings.kind not in _READERS or settings.streaming:
        return None
    try:
        columns = _READERS[settings.kind](settings, check)
        label = find_columns(columns.schema, columns.features, settings).label
    except GroundupError:  # the source is not to be had any more: the images are in the cache, this is not
        return None
    coarse = label.replace("fine", "coarse")
    if coarse == label or coarse not in columns.schema.names:
        return None
    found, fine = encode_labels({"train": columns.read(label)}, columns.names(label))
    names, kinds = encode_labels({"train": columns.read(coarse)}, columns.names(coarse))
    if found != list(classes):
        return None
    pairs = np.unique(np.stack([fine["train"], kinds["train"]]), axis=1)
    of_class = dict(zip(*pairs.tolist(), strict=True))
    whole = pairs.min() >= 0 and pairs.shape[1] == len(classes) == len(of_class)
    return Superclasses(names, [of_class[index] for index in range(len(classes))]) if whole else None
