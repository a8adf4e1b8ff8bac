"""Choosing images by seed with the classes in proportion. Labels are int64 (N,); results are sorted int64 positions.

Each class gets its share of the chosen images, within one image (largest remainders). A pure function of labels,
share and seed.
"""

from collections.abc import Sequence

import numpy as np

from groundup.basis.errors import DataError, listed
from groundup.basis.seeding import permutation


def stratified_split(
    labels: np.ndarray, share: float, classes: Sequence[str], *seed: int | str, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, taken): `share` of each class is taken, at least one image and never all. `what` is for errors."""
    counts = np.bincount(labels, minlength=len(classes))
    if few := [name for name, count in zip(classes, counts, strict=True) if count == 1]:
        raise DataError(
            f"class {listed(few, 10)} has 1 image: too few to split off {what} (at least 2 are needed)",
            hint="add images, remove the class, or split less (data.validation=0, a larger data.limit)",
        )
    wanted = _allot(counts, round(share * len(labels)))
    wanted = np.where(counts > 0, np.clip(wanted, 1, counts - 1), 0)
    taken = _choose(labels, wanted, *seed)
    return np.setdiff1d(np.arange(len(labels)), taken, assume_unique=True), taken


def stratified_choice(labels: np.ndarray, count: int, *seed: int | str) -> np.ndarray:
    """`count` positions (all if there are fewer)."""
    if count >= len(labels):
        return np.arange(len(labels))
    return _choose(labels, _allot(np.bincount(labels), count), *seed)


def _allot(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` images over the classes in proportion to `counts`: whole parts first, then the largest remainders."""
    quota = counts * (total / counts.sum())
    allotted = np.floor(quota).astype(np.int64)
    left = total - int(allotted.sum())
    allotted[np.argsort(allotted - quota, kind="stable")[:left]] += 1
    return allotted


def _choose(labels: np.ndarray, wanted: np.ndarray, *seed: int | str) -> np.ndarray:
    """`wanted[c]` images of each class c, at random."""
    shuffled = permutation(len(labels), *seed).numpy()
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(wanted)))[:-1]])
    rank = np.arange(len(labels)) - starts[labels[grouped]]
    return np.sort(grouped[rank < wanted[labels[grouped]]])
