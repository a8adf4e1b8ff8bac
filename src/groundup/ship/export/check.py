"""Whether an export is the run that it was made of, and how fast it is: both on real images.

Tolerance   in fp32 no probability may differ by more than LARGEST_DIFFERENCE, and the most probable class has to be the same for
            LEAST_AGREEMENT of the images (one image may always differ: two classes can be equally probable).
            An int8 file may not lose more than LARGEST_FALL of the accuracy.
Speed       wall-clock seconds of the original and the export on the same images, taken in turn, so that what else the
            machine does meets both: the median of one image, and the images/s of 32 at once. `threads`: of each.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.basis.errors import GroundupError
from groundup.data import ImageSet
from groundup.data.splits import stratified_choice
from groundup.evaluation import compare_runs, wilson
from groundup.ship.export.module import Pixels, Probabilities, Runner

IMAGES, IMAGES_INT8 = 256, 2000
LARGEST_DIFFERENCE = 1e-4
LEAST_AGREEMENT = 0.999
LARGEST_FALL = 0.05
_AT_ONCE = 64
_BATCH = 32
_ROUNDS = {1: 30, _BATCH: 8}
_LEAST_ROUNDS = 3
_SECONDS = 10.0  # per batch size, after which no further round begins

Check = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of the test split, uint8 (N, S, S, 3), and their labels, int64 (N,)."""

    images: Pixels
    labels: NDArray[np.int64]

    def batches(self) -> Iterator[Pixels]:
        """The images in order, some at a time. The last of several batches is of another size: the batch is free."""
        for start in range(0, len(self.images), _AT_ONCE):
            yield self.images[start : start + _AT_ONCE]

    def ask(self, runner: Runner, check: Check = lambda: None) -> Probabilities:
        """What `runner` says of all images, float32 (N, C)."""
        answers = []
        for batch in self.batches():
            check()
            answers.append(runner(batch))
        return np.concatenate(answers)


@dataclass(frozen=True)
class Agreement:
    """An export beside the original. `difference`: the largest of a probability; `agreement`: share of equal top-1."""

    images: int
    difference: float
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """As `json` can write it, with the tolerance."""
        return {**asdict(self), "tolerance": {"difference": LARGEST_DIFFERENCE, "agreement": LEAST_AGREEMENT}}

    def require(self, name: str) -> None:
        """GroundupError if `name` is not what the run is."""
        differing = round((1 - self.agreement) * self.images)
        allowed = max(1, int((1 - LEAST_AGREEMENT) * self.images))
        # Not `>`: a difference that is not a number is refused too.
        if not self.difference <= LARGEST_DIFFERENCE or differing > allowed:
            raise GroundupError(
                f"{name}: refused: on {self.images:,} images its probabilities differ from the run's by up to "
                f"{self.difference:.2g} (at most {LARGEST_DIFFERENCE:g}) and its top-1 agrees on {self.agreement:.2%} "
                f"(at least {LEAST_AGREEMENT:.1%}); it is not kept",
                hint="another version of torch, onnxruntime or onnxscript may export this network as it is",
            )


def sample_of(images: ImageSet, count: int, *seed: str) -> Sample:
    """`count` images with the classes in proportion, or all if there are fewer."""
    chosen = stratified_choice(images.labels, count, *seed)
    return Sample(images.read(chosen).numpy(), images.labels[chosen])


def agreement_of(original: Probabilities, exported: Probabilities) -> Agreement:
    """Compare probabilities (N, C) of the same images."""
    if original.shape != exported.shape:
        raise GroundupError(f"the export gives {exported.shape}, the run {original.shape}")
    same = int((original.argmax(1) == exported.argmax(1)).sum())
    return Agreement(len(original), float(np.abs(original - exported).max()), same / len(original))


def accuracies(original: Probabilities, exported: Probabilities, labels: NDArray[np.int64]) -> dict[str, Any]:
    """The accuracy of both with 95% intervals, and of the difference on the same images (exported - original)."""
    hits = [torch.from_numpy(probabilities.argmax(1) == labels) for probabilities in (exported, original)]
    compared = compare_runs(hits[0], hits[1], names=("int8", "fp32"))
    after, before = (
        {"top1": int(hit.sum()) / len(hit), "top1_interval": list(wilson(int(hit.sum()), len(hit)))} for hit in hits
    )
    return {
        "images": len(labels),
        "fp32": before,
        "int8": after,
        "difference": compared.difference,
        "difference_interval": list(compared.interval),
        "tolerance": {"fall": LARGEST_FALL},
    }


def require_accuracy(found: dict[str, Any], name: str) -> None:
    """GroundupError if int8 lost too much."""
    if found["difference"] < -LARGEST_FALL:
        raise GroundupError(
            f"{name}: refused: its accuracy is {found['int8']['top1']:.2%}, that of fp32 {found['fp32']['top1']:.2%} on "
            f"{found['images']:,} images (at most {100 * LARGEST_FALL:g} points less); it is not kept",
            hint="more --calibration-images, or the fp32 file",
        )


def speed(original: Runner, exported: Runner, sample: Sample, names: tuple[str, str], check: Check) -> dict[str, Any]:
    """Seconds per image of both and their ratio, measured in turn: see the module."""
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "batch": _BATCH}
    for size, key in ((1, "latency_p50_ms"), (_BATCH, "images_per_second")):
        images = np.resize(sample.images, (size, *sample.images.shape[1:]))
        pair = (original, exported)
        for runner in pair:
            runner(images)  # warm-up of this shape
        times: tuple[list[float], list[float]] = ([], [])
        end = time.monotonic() + _SECONDS
        for done in range(_ROUNDS[size]):
            if done >= _LEAST_ROUNDS and time.monotonic() > end:
                break
            check()
            for runner, taken in zip(pair, times, strict=True):
                start = time.perf_counter()
                runner(images)
                taken.append(time.perf_counter() - start)
        seconds = [median(taken) for taken in times]
        found[key] = {name: 1e3 * each if size == 1 else size / each for name, each in zip(names, seconds, strict=True)}
        found[key]["ratio"] = median(a / b for a, b in zip(*times, strict=True))
    return found
