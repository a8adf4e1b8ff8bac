"""The door `digits`: the 1,797 handwritten digits that scikit-learn carries, 8x8 pixels, 10 classes, no download.

Grey values 0..16 are scaled to 0..255 (x * 255 / 16, rounded). The set has no test split of its own.
E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits (UCI, 1998), its test part.
"""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from groundup.data.settings import DataSettings
from groundup.data.sources import Contents, Source, SourceSplit, digest


def open_digits(settings: DataSettings, check: Callable[[], None]) -> Source:
    """The source behind `digits`."""
    return Source(digest(["digits", version("scikit-learn")]), _read)


def _read() -> Contents:
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)  # float64 (1797, 64) in 0..16, int64 (1797,)
    images = np.rint(grey.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    split = SourceSplit(
        labels.astype(np.int64),
        images=lambda: iter(images),
        name=lambda index: f"digits image {index}",
        at=lambda positions: list(images[positions]),
    )
    return Contents([str(digit) for digit in range(10)], {"train": split})
