"""Whether one network is better than another: two runs, or two groups of seeds, on the same test images.

Input    right or wrong per image (`metrics.correct`): bool (N,) of a run, bool (S, N) of a group of S seeds. The images are the
         same and in the same order for both sides; that each image is compared with itself is what makes small differences
         visible. Differences are A - B, fractions in [-1, 1]; `in_words` gives points (hundredths).
Runs     `compare_runs`: the exact test of Q. McNemar (Psychometrika 12, 1947) on the images that one of the two has right and the
         other wrong, and the interval of A. Agresti and Y. Min (Simple improved confidence intervals for comparing
         matched proportions, Statistics in Medicine 24, 2005). Speaks of the choice of test images, for these two trained networks:
         it does not say that the recipe of A is better, another seed may turn it round.
Seeds    `compare_groups(over="seeds")`: B. L. Welch's t interval and test over the accuracies of the seeds. Speaks of the choice of
         seeds, on these very test images.
Both     `compare_groups(over="seeds and images")`: seeds and images both count as drawn at random; the variances of seeds and
         of images add up, less what both contain (the seed-by-image part of a two-way analysis of variance), with
         the degrees of freedom of F. E. Satterthwaite (Biometrics Bulletin 2, 1946). Speaks of new seeds on new images of the same
         kind: the question that "recipe A is better" asks.
Hurts    many comparisons on one test split: of twenty without any difference one is "shown" at 95%.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation.intervals import require_confidence

Over = Literal["seeds", "seeds and images"]


@dataclass(frozen=True)
class Comparison:
    """The difference of two accuracies A - B and how sure it is. `over`: what was drawn at random, see the module."""

    names: tuple[str, str]
    accuracies: tuple[float, float]  # the means over seeds for groups
    difference: float
    interval: tuple[float, float]
    p: float  # of a difference at least as large either way, if there is none
    images: int
    seeds: tuple[int, int]
    over: str
    confidence: float = 0.95

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0 and the test agrees: both, so that a narrow miss of one is not a win."""
        low, high = self.interval
        return not low <= 0 <= high and self.p < 1 - self.confidence

    def in_words(self) -> str:
        """One sentence in points, such as "no difference shown: +0.3 points (95% interval -0.5 to +1.1 ...)"."""
        towards_b = self.shown and self.difference < 0  # then everything is told as what B has over A
        values = (
            (-self.difference, -self.interval[1], -self.interval[0]) if towards_b else (self.difference, *self.interval)
        )
        points = [100 * value for value in values]
        digits = _digits(points[1:])
        difference, low, high = (_signed(value, digits) for value in points)
        p = "p < 0.0001" if self.p < 1e-4 else f"p = {self.p:.2g}"
        facts = f"({self.confidence:.0%} interval {low} to {high} over the choice of {self.over}; {p})"
        if not self.shown:
            return f"no difference shown: {difference} points {facts}"
        return f"{self.names[1 if towards_b else 0]} is better by {points[0]:.{digits}f} points {facts}"


def compare_runs(
    correct_a: Tensor, correct_b: Tensor, *, names: tuple[str, str] = ("A", "B"), confidence: float = 0.95
) -> Comparison:
    """Two networks, right or wrong on the same images: bool (N,) each."""
    require_confidence(confidence)
    _require_hits(correct_a, correct_b, dimensions=1)
    count = len(correct_a)
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return Comparison(
        names=names,
        accuracies=(int(correct_a.sum()) / count, int(correct_b.sum()) / count),
        difference=(only_a - only_b) / count,
        interval=agresti_min(only_a, only_b, count, confidence),
        p=mcnemar(only_a, only_b),
        images=count,
        seeds=(1, 1),
        over="test images",
        confidence=confidence,
    )


def compare_groups(
    correct_a: Tensor,
    correct_b: Tensor,
    *,
    over: Over = "seeds and images",
    names: tuple[str, str] = ("A", "B"),
    confidence: float = 0.95,
) -> Comparison:
    """Two groups of seeds, right or wrong on the same images: bool (S, N) each; the groups may differ in S, at least 2."""
    require_confidence(confidence)
    if over not in ("seeds", "seeds and images"):
        raise UsageError(f"over={over!r}: unknown; allowed: 'seeds', 'seeds and images'")
    _require_hits(correct_a, correct_b, dimensions=2)
    a, b = correct_a.double(), correct_b.double()
    seeds, images = (len(a), len(b)), a.shape[1]
    # (variance of the difference that this part contributes, its degrees of freedom)
    parts = [(float(group.mean(1).var()) / len(group), len(group) - 1) for group in (a, b)]
    variance = parts[0][0] + parts[1][0]
    if over == "seeds and images":
        of_images = float((a.mean(0) - b.mean(0)).var()) / images
        parts.append((of_images, images - 1))
        # The seed-by-image part is in both; an estimate below either of them would be an accident of the draw.
        variance = max(variance + of_images - _interaction(a) - _interaction(b), variance, of_images)
    accuracies = (float(a.mean()), float(b.mean()))
    difference = accuracies[0] - accuracies[1]
    reach, p = _student(difference, variance, parts, confidence)
    return Comparison(
        names=names,
        accuracies=accuracies,
        difference=difference,
        interval=(max(-1.0, difference - reach), min(1.0, difference + reach)),
        p=p,
        images=images,
        seeds=seeds,
        over=over,
        confidence=confidence,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p: how rarely a fair coin splits `only_a + only_b` images at least so unevenly."""
    from scipy.special import bdtr  # type: ignore[import-untyped]

    if only_a == only_b:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def agresti_min(only_a: int, only_b: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the paired difference (only_a - only_b) / count: half an image added to each of the four cells."""
    total, apart, difference = count + 2, only_a + only_b + 1, only_a - only_b
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    reach = z * math.sqrt(apart - difference * difference / total) / total
    return max(-1.0, difference / total - reach), min(1.0, difference / total + reach)


def _interaction(hits: Tensor) -> float:
    """The part of the variance of the mean that belongs to single pairs of seed and image: mean square / (S N)."""
    seeds, images = hits.shape
    rest = hits - hits.mean(1, keepdim=True) - hits.mean(0, keepdim=True) + hits.mean()
    return float(rest.square().sum()) / ((seeds - 1) * max(images - 1, 1) * seeds * images)


def _student(
    difference: float, variance: float, parts: list[tuple[float, int]], confidence: float
) -> tuple[float, float]:
    """Reach of the t interval and p, with Welch's and Satterthwaite's degrees of freedom."""
    from scipy.special import stdtr, stdtrit

    scale = sum(part**2 / freedom for part, freedom in parts)
    if variance == 0 or scale == 0:
        return 0.0, 1.0 if difference == 0 else 0.0
    freedom = variance**2 / scale
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(variance)
    return reach, min(1.0, 2 * float(stdtr(freedom, -abs(difference) / math.sqrt(variance))))


def _require_hits(correct_a: Tensor, correct_b: Tensor, dimensions: int) -> None:
    shape = "(N,)" if dimensions == 1 else "(S, N)"
    for hits in (correct_a, correct_b):
        if hits.ndim != dimensions or hits.dtype != torch.bool:
            raise ValueError(f"need right or wrong as bool {shape}, got {hits.dtype} {tuple(hits.shape)}")
    if correct_a.shape[-1] != correct_b.shape[-1]:
        raise UsageError(
            f"a paired comparison needs the same test images: {correct_a.shape[-1]} against {correct_b.shape[-1]}",
            hint="compare runs on the same data",
        )
    if correct_a.shape[-1] < 2:
        raise GroundupError(f"a comparison needs at least 2 images, got {correct_a.shape[-1]}")
    if dimensions == 2 and min(len(correct_a), len(correct_b)) < 2:
        raise GroundupError(
            f"a comparison over seeds needs at least 2 in each group, got {len(correct_a)} and {len(correct_b)}",
            hint="train with more seeds, or compare two single runs with `compare_runs`",
        )


def _digits(bounds: list[float]) -> int:
    """Decimals at which no bound reads as 0 that is not: one where possible, at most three."""
    return next((digits for digits in (1, 2) if all(not b or round(b, digits) for b in bounds)), 3)


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0 turns a -0.0 into 0.0
