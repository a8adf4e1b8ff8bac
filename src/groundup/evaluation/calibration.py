"""Whether a network is as sure as it is right: NLL, Brier score, calibration errors, temperature scaling.

Shapes   logits floating point (N, C), labels int64 (N,). The confidence of an image is its highest probability.
NLL      mean negative log-likelihood, in nats.
Brier    mean over images of sum over classes (p - y)^2, with y one for the label and zero elsewhere: in [0, 2], the form of
         G. W. Brier (Verification of forecasts expressed in terms of probability, 1950). Half of it is found elsewhere.
ECE      expected calibration error: mean over images of |accuracy - mean confidence| of the image's bin, in [0, 1].
         Equal-width bins as C. Guo et al. (On calibration of modern neural networks, ICML 2017); equal-mass bins hold as many
         images each and are less biased (R. Roelofs et al., Mitigating bias in calibration error estimation, AISTATS 2022).
         Both are biased upwards: a perfectly calibrated network gets about sqrt(2 B p (1 - p) / (pi N)), not 0, for B bins.
         So an interval around an ECE would leave out the truth where the truth is small; `chance_ece` says instead what
         calibrated probabilities get by chance.
Source   Temperature scaling: Guo et al. One number divides all logits; the order of the classes, so the accuracy, stays.
Values   networks trained with hard labels until they fit: 1.2 to 3; with label smoothing or mixing often below 1.
Hurts    a temperature fitted on the images it is judged on; one fitted on few images. It comes from a validation split.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation.intervals import bootstrap, require_confidence, wilson
from groundup.evaluation.metrics import require_scores

FEWEST_IMAGES = 50  # below, the fitted temperature says more about the choice of images than about the network
_LEAST_T, _MOST_T = 1e-3, 1e3


@dataclass(frozen=True)
class Bin:
    """Images of like confidence: the mean of it, the share of them that is right, and how many there are."""

    low: float  # the confidences of the bin: its edges (equal width), its lowest and highest one (equal mass)
    high: float
    confidence: float
    accuracy: float
    count: int
    interval: tuple[float, float]  # Wilson's at 95%, of the accuracy


@dataclass(frozen=True)
class Calibration:
    """How sure and how right a network is on one split. Bins without images are left out."""

    images: int
    accuracy: float
    confidence: float  # the mean; above the accuracy the network is over-confident
    nll: float
    brier: float
    ece_equal_mass: float
    ece_equal_width: float
    bins: tuple[Bin, ...]  # equal mass
    bins_equal_width: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values that `json` can write."""
        return {
            **asdict(self),
            "bins": [_plain(entry) for entry in self.bins],
            "bins_equal_width": [_plain(entry) for entry in self.bins_equal_width],
        }

    def __str__(self) -> str:
        return (
            f"NLL {self.nll:.4f}, Brier {self.brier:.4f}, ECE {self.ece_equal_mass:.2%} (equal mass) "
            f"{self.ece_equal_width:.2%} (equal width), confidence {self.confidence:.2%} at accuracy {self.accuracy:.2%}, "
            f"{self.images:,} images"
        )


def calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Everything about the confidence of `logits` (N, C) on `labels` (N,), with `bins` bins of each kind."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    losses, scores, confidence, hits = _per_image(logits, labels)
    mass, width = _equal_mass(confidence, bins), _equal_width(confidence, bins)
    edges = [(index / bins, (index + 1) / bins) for index in range(bins)]
    return Calibration(
        images=len(labels),
        accuracy=float(hits.mean()),
        confidence=float(confidence.mean()),
        nll=float(losses.mean()),
        brier=float(scores.mean()),
        ece_equal_mass=_error(confidence, hits, mass),
        ece_equal_width=_error(confidence, hits, width),
        bins=_bins(confidence, hits, mass),
        bins_equal_width=_bins(confidence, hits, width, edges),
    )


def calibration_intervals(
    logits: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals over the images of the two means over images, by the names of the fields of `Calibration`: nll, brier."""
    losses, scores, _, _ = _per_image(logits, labels)

    def mean_of(values: Tensor) -> Callable[[Tensor], float]:
        return lambda drawn: float(values[drawn].mean())

    return {
        name: bootstrap(
            mean_of(values),
            len(labels),
            generator=generator,
            resamples=resamples,
            confidence=confidence,
            within=(0.0, most),
        )
        for name, values, most in (("nll", losses, math.inf), ("brier", scores, 2.0))
    }


def chance_ece(
    logits: Tensor,
    *,
    generator: torch.Generator,
    bins: int = 15,
    draws: int = 1000,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """The ECEs, by the names of the fields of `Calibration`, of a network that is right as often as these logits (N, C) say.

    (mean, low, high): `confidence` of the `draws` of labels from the network's own probabilities lie between low and high. An
    ECE in this range is what a calibrated network gets on so many images; one above it shows miscalibration.
    """
    require_confidence(confidence)
    sure = torch.softmax(_finite(logits), dim=1).amax(1)
    index = {"ece_equal_mass": _equal_mass(sure, bins), "ece_equal_width": _equal_width(sure, bins)}
    found: dict[str, list[float]] = {name: [] for name in index}
    for _ in range(draws):
        hits = (torch.rand(len(sure), generator=generator, dtype=torch.float64) < sure).double()
        for name, of_image in index.items():
            found[name].append(_error(sure, hits, of_image))
    tail = (1 - confidence) / 2
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}
    return {
        name: (float(values.mean()), float(values.quantile(tail)), float(values.quantile(1 - tail)))
        for name, values in tensors.items()
    }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the NLL of `logits / T`, for the logits of a VALIDATION split.

    The NLL is convex in 1/T, so its slope changes sign once: bisection in log T finds it from anywhere. `GroundupError` where
    there is no finite answer between 0.001 and 1000.
    """
    require_scores(logits, labels)
    if len(labels) < FEWEST_IMAGES:
        raise UsageError(
            f"a temperature cannot be fitted on {len(labels)} images; at least {FEWEST_IMAGES}",
            hint="carve a larger validation split, e.g. data.validation=0.1",
        )
    if logits.shape[1] < 2 or len(labels.unique()) < 2:
        raise UsageError(
            f"a temperature cannot be fitted on images of one class (class {int(labels[0])} of {logits.shape[1]})",
            hint="use a validation split that holds every class",
        )
    scores = _finite(logits)
    scores = scores - scores.amax(1, keepdim=True)
    of_label = scores.gather(1, labels[:, None])[:, 0].mean()

    def too_sure(temperature: float) -> bool:
        """Whether the NLL falls when the temperature rises."""
        probabilities = torch.softmax(scores / temperature, dim=1)
        return bool((probabilities * scores).sum(1).mean() > of_label)

    if not too_sure(_LEAST_T):
        raise GroundupError(
            f"no finite temperature is the best: (nearly) all of the {len(labels)} images are right, so surer is always better",
            hint="fit on more validation images, or leave the logits as they are (temperature 1)",
        )
    if too_sure(_MOST_T):
        raise GroundupError(
            "no finite temperature is the best: the logits say no more about the labels than chance",
            hint="check that logits and labels are of the same images in the same order",
        )
    low, high = math.log(_LEAST_T), math.log(_MOST_T)
    for _ in range(45):  # 13.8 / 2^45: to the last digits that matter
        middle = (low + high) / 2
        low, high = (middle, high) if too_sure(math.exp(middle)) else (low, middle)
    return math.exp((low + high) / 2)


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """`logits / temperature`: above 1 less sure, below 1 surer; the predicted classes stay."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"a temperature is a finite number above 0, got {temperature}")
    return logits / temperature


def _per_image(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, Brier score, confidence, right or not (1 or 0) of every image: float64 (N,)."""
    require_scores(logits, labels)
    log_probabilities = torch.log_softmax(_finite(logits), dim=1)
    of_label = log_probabilities.gather(1, labels[:, None])[:, 0]
    probabilities = log_probabilities.exp()
    # sum (p - y)^2 = sum p^2 - 2 p_label + 1: needs no one-hot copy.
    brier = probabilities.square().sum(1) - 2 * of_label.exp() + 1
    return -of_label, brier, probabilities.amax(1), (logits.argmax(1) == labels).double()


def _finite(logits: Tensor) -> Tensor:
    scores = logits.double()
    if not bool(torch.isfinite(scores).all()):
        raise GroundupError(
            "the logits hold NaN or infinities", hint="the training diverged, or the precision is too low"
        )
    return scores


def _equal_width(confidence: Tensor, bins: int) -> Tensor:
    """The bin of every image: [0, 1/bins), [1/bins, 2/bins) ..., a confidence of 1 in the last."""
    return (confidence * bins).long().clamp(max=bins - 1)


def _equal_mass(confidence: Tensor, bins: int) -> Tensor:
    """The bin of every image: cut at every N/bins-th confidence; equal confidences share a bin, so the order says nothing."""
    ordered = confidence.sort().values
    starts = [index * len(ordered) // bins for index in range(1, bins)]
    return torch.searchsorted(ordered[starts].unique(), confidence, right=True)


def _error(confidence: Tensor, hits: Tensor, index: Tensor) -> float:
    """Sum over bins of |right - confident|, over the number of images: the weights and the means in one."""
    return float(torch.bincount(index, hits - confidence).abs().sum()) / len(index)


def _bins(
    confidence: Tensor, hits: Tensor, index: Tensor, edges: Sequence[tuple[float, float]] | None = None
) -> tuple[Bin, ...]:
    result = []
    for entry in index.unique().tolist():
        inside = index == entry
        sure, right, count = confidence[inside], int(hits[inside].sum()), int(inside.sum())
        low, high = edges[entry] if edges else (float(sure.min()), float(sure.max()))
        result.append(Bin(low, high, float(sure.mean()), right / count, count, wilson(right, count)))
    return tuple(result)


def _plain(entry: Bin) -> dict[str, Any]:
    return {**asdict(entry), "interval": list(entry.interval)}
