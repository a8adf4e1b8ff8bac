"""How much better a network is on what it was trained on or chosen by: gaps between splits, and the bias of choosing.

Input    accuracies as counts (right, images); train is read on the clean images in evaluation mode, since the running accuracy of a
         training epoch is of augmented or mixed images and of weights that were still changing.
Interval Newcombe's for independent proportions (`intervals.newcombe`), at 95%. It speaks of the choice of images in both splits,
         for this one network.
Reading  train - test is fit to the training images, and can be large in a good network. validation - test beyond its
         interval means that validation was used to choose (settings, epoch), or that the splits differ in kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation.intervals import newcombe, wilson

Counts = tuple[int, int]


@dataclass(frozen=True)
class Gap:
    """The accuracy on the split `first` less that on `second`, and its 95% interval."""

    first: str
    second: str
    difference: float
    interval: tuple[float, float]

    def in_words(self) -> str:
        """Such as "train is 12.30 points above test (95% interval +11.52 to +13.08)"."""
        interval = "(95% interval {:+.2f} to {:+.2f})".format(*(100 * bound for bound in self.interval))
        if self.interval[0] <= 0 <= self.interval[1]:
            points = 100 * self.difference
            return f"no gap shown between {self.first} and {self.second}: {points:+.2f} points {interval}"
        side = "above" if self.difference > 0 else "below"
        return f"{self.first} is {100 * abs(self.difference):.2f} points {side} {self.second} {interval}"


@dataclass(frozen=True)
class Generalisation:
    """Accuracies of one network on the splits it was evaluated on, and the gaps between them."""

    accuracies: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # Wilson's at 95%
    images: dict[str, int]
    gaps: tuple[Gap, ...]

    def in_words(self) -> str:
        """One line per gap."""
        return "\n".join(gap.in_words() for gap in self.gaps)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values that `json` can write."""
        return {
            "accuracies": dict(self.accuracies),
            "intervals": {split: list(interval) for split, interval in self.intervals.items()},
            "images": dict(self.images),
            "gaps": [{**vars(gap), "interval": list(gap.interval)} for gap in self.gaps],
        }


def generalisation(*, train: Counts, test: Counts, validation: Counts | None = None) -> Generalisation:
    """The gaps between the splits, from (right, images) of each."""
    splits = {"train": train, **({"validation": validation} if validation else {}), "test": test}
    for split, (_, images) in splits.items():
        if images < 1:
            raise GroundupError(
                f"there is nothing to score: 0 images in {split}", hint="check that the split is not empty"
            )
    shares = {split: right / images for split, (right, images) in splits.items()}
    names = list(splits)
    gaps = tuple(
        Gap(first, second, shares[first] - shares[second], newcombe(splits[first], splits[second]))
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    return Generalisation(
        shares,
        {split: wilson(*counts) for split, counts in splits.items()},
        {split: images for split, (_, images) in splits.items()},
        gaps,
    )


@dataclass(frozen=True)
class SelectionBias:
    """The best of many readings on the split that selects, against the last one. Accuracies are fractions."""

    split: str
    readings: int
    images: int
    best: float
    best_epoch: float
    last: float
    last_epoch: float

    @property
    def difference(self) -> float:
        """best - last: what choosing by this split adds to the number read on it, at most."""
        return self.best - self.last

    @property
    def noise(self) -> float:
        """Half the width of the 95% interval of one reading."""
        low, high = wilson(round(self.last * self.images), self.images)
        return (high - low) / 2

    def in_words(self) -> str:
        """What the best epoch says beside the last one, and whether it may be called a result."""
        facts = (
            f"best of {self.readings} readings on {self.split}: {self.best:.2%} at epoch {self.best_epoch:g}; "
            f"last: {self.last:.2%} at epoch {self.last_epoch:g}. "
        )
        if self.difference <= 0:
            return facts + "The last is the best: nothing was gained by choosing."
        size = f"Choosing the best adds {100 * self.difference:.2f} points"
        if self.difference <= self.noise:
            size += f", within the noise of one reading (+-{100 * self.noise:.2f} points)"
        if self.split == "test":
            return f"{facts}{size}. Chosen on test, it is optimistic: report the last, or choose on a validation split."
        return f"{facts}{size}. The best is no result on {self.split}, which chose it; report it on test."


def selection_bias(curve: Sequence[tuple[float, float]], *, images: int, split: str = "validation") -> SelectionBias:
    """`curve`: (epoch, accuracy) of every evaluation on `split`, in order; `images`: of that split."""
    if not curve or images < 1:
        raise UsageError(f"nothing was read on {split}: {len(curve)} evaluations of {images} images")
    if not all(math.isfinite(accuracy) and 0 <= accuracy <= 1 for _, accuracy in curve):
        raise ValueError("accuracies must be fractions in [0, 1]")
    best_epoch, best = max(curve, key=lambda point: point[1])
    last_epoch, last = curve[-1]
    return SelectionBias(split, len(curve), images, best, best_epoch, last, last_epoch)
