"""What groups of runs that differ in their seed alone say: spread over seeds, which differences are real, the Pareto front.

Spread   mean, standard deviation and Student's t interval over seeds (`evaluation.intervals`); one seed has the mean alone.
Pairs    every two groups, on the seeds that they share. Where three or more groups have the same seeds, what is left of each
         result after its group's mean and its seed's mean is the noise (randomized blocks: R. A. Fisher, The design of
         experiments, 1935, ch. IV): one variance for all pairs, (G - 1)(S - 1) degrees of freedom instead of S - 1. That supposes
         equal spread: with two seeds, or where one group is too wide for it (W. G. Cochran's C, Annals of Eugenics 11, 1941; such
         as a recipe that sometimes diverges), each group has its own variance, with the degrees of freedom of F. E. Satterthwaite
         (Biometrics Bulletin 2, 1946). Where seeds are not shared by all, Student's paired t on those that both have, or
         B. L. Welch's t on fewer than two.
Many     p values are corrected for the number of comparisons (S. Holm, Scandinavian Journal of Statistics 6, 1979): at 5% the
         chance of a single false "is better" in the whole table is about 5%. Simulated with 3 to 12 groups of three seeds: 3 to 5%
         with equal spread, up to 6% where one group or half of them vary 4 to 10 times as much. The intervals are those of
         single comparisons.
Speaks   of the choice of seeds on these very images. With the same images for all, what new images would do is not in it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Any

from groundup.evaluation import mean_interval

_FEWEST_SEEDS = 3  # with two seeds, a group that is wider than the others is not seen often enough
_EQUAL_SPREAD = 0.5  # p of Cochran's C below which the spread of the groups counts as unequal: three seeds show little


@dataclass(frozen=True)
class Spread:
    """`sd` and `interval` are None for one seed, `interval` also where all seeds agree: that is no certainty."""

    count: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Noise:
    """The variance of a single result beside its group's and its seed's mean, of each group. `equal`: one variance does for all."""

    variances: Mapping[Any, float]
    seeds: int
    equal: bool

    def error(self, weights: Mapping[Any, float]) -> tuple[float, float]:
        """The standard error of a contrast of group means (weights that add up to 0), and its degrees of freedom."""
        freedom = self.seeds - 1
        if self.equal:
            squares = fmean(self.variances.values()) / self.seeds * sum(weight**2 for weight in weights.values())
            return math.sqrt(squares), (len(self.variances) - 1) * freedom
        parts = [weight**2 * self.variances[name] / self.seeds for name, weight in weights.items()]
        total = sum(parts)
        return math.sqrt(total), total**2 / sum(part**2 / freedom for part in parts) if total else 0.0


@dataclass(frozen=True)
class Difference:
    """A - B of two groups over the choice of seeds. `p` is None where the seeds show no spread, `adjusted` is p after Holm."""

    names: tuple[str, str]
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    seeds: tuple[int, int]
    method: str
    confidence: float = 0.95

    @property
    def shown(self) -> bool:
        """Whether the difference is real as far as seeds go, with all other comparisons taken into account."""
        return self.adjusted is not None and self.adjusted < 1 - self.confidence


def spread(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Of the results of a group, one per seed."""
    if len(values) < 2:
        return Spread(len(values), fmean(values), None, None)
    mean, low, high = mean_interval(values, confidence)
    sd = stdev(values)
    return Spread(len(values), mean, sd, (low, high) if sd > 1e-12 else None)


def differences(groups: Mapping[str, Mapping[int, float]], confidence: float = 0.95) -> list[Difference]:
    """Every two of the groups {name: {seed: result}} that have at least two seeds, corrected for their number."""
    able = {name: results for name, results in groups.items() if len(results) >= 2}
    left = noise(able)
    found = [
        _difference((one, other), able[one], able[other], left, confidence)
        for one, other in itertools.combinations(able, 2)
    ]
    adjusted = iter(holm([pair.p for pair in found if pair.p is not None]))
    return [pair if pair.p is None else replace(pair, adjusted=next(adjusted)) for pair in found]


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given."""
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def pareto_front(costs: Sequence[float], values: Sequence[float], mode: str = "max") -> list[int]:
    """The places that nobody beats: none is as cheap and better, or as good and cheaper. In the order of cost."""
    sign = -1 if mode == "max" else 1
    order = sorted(range(len(costs)), key=lambda place: (costs[place], sign * values[place]))
    front: list[int] = []
    for place in order:
        better = not front or sign * values[place] < sign * values[front[-1]]
        equal = front and (costs[place], values[place]) == (costs[front[-1]], values[front[-1]])
        if better or equal:
            front.append(place)
    return front


def student(difference: float, error: float, freedom: float, confidence: float) -> tuple[tuple[float, float], float]:
    """The t interval and the two-sided p of a difference with its standard error."""
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p = min(1.0, 2 * float(stdtr(freedom, -abs(difference) / error)))
    return (difference - reach, difference + reach), p


def noise(groups: Mapping[Any, Mapping[int, float]]) -> Noise | None:
    """What is left of the results beside group and seed; None where the groups share no seeds, or nothing is left."""
    seeds = [set(results) for results in groups.values()]
    if len(groups) < 3 or len(seeds[0]) < 2 or any(own != seeds[0] for own in seeds):
        return None
    order = sorted(seeds[0])
    table = [[results[seed] for seed in order] for results in groups.values()]
    of_seed = [fmean(column) for column in zip(*table, strict=True)]
    grand = fmean(of_seed)
    squares = [
        sum((value - fmean(row) - seed + grand) ** 2 for value, seed in zip(row, of_seed, strict=True)) for row in table
    ]
    if sum(squares) <= 1e-24:
        return None
    # Each group keeps (G - 1)/G of its variance: the rest went into the means of the seeds.
    share = (len(order) - 1) * (len(table) - 1) / len(table)
    equal = len(order) >= _FEWEST_SEEDS and _equal_spread(squares, len(order) - 1)
    return Noise({name: own / share for name, own in zip(groups, squares, strict=True)}, len(order), equal)


def _equal_spread(squares: Sequence[float], freedom: int) -> bool:
    """Whether what is left of the results in the widest group is no wider than chance makes one of so many."""
    from scipy.special import fdtrc

    share, groups = max(squares) / sum(squares), len(squares)
    if share >= 1:
        return False
    ratio = share * (groups - 1) / (1 - share)
    return bool(groups * float(fdtrc(freedom, (groups - 1) * freedom, ratio)) >= _EQUAL_SPREAD)


def _difference(
    names: tuple[str, str],
    one: Mapping[int, float],
    other: Mapping[int, float],
    left: Noise | None,
    confidence: float,
) -> Difference:
    shared = sorted(one.keys() & other.keys())
    counts = (len(one), len(other))
    if len(shared) >= 2:
        steps = [one[seed] - other[seed] for seed in shared]
        difference, counts = fmean(steps), (len(shared), len(shared))
        if left is None:
            method, error, freedom = "same seeds", math.sqrt(variance(steps) / len(shared)), float(len(shared) - 1)
        else:
            method = f"same seeds, spread of {'all' if left.equal else 'both'} groups"
            error, freedom = left.error({names[0]: 1, names[1]: -1})
    else:
        method = "other seeds"
        difference = fmean(one.values()) - fmean(other.values())
        parts = [(variance(group.values()) / len(group), len(group) - 1) for group in (one, other)]
        total = sum(part for part, _ in parts)
        error = math.sqrt(total)
        freedom = total**2 / sum(part**2 / own for part, own in parts) if total else 0.0
    if error <= 1e-12:
        return Difference(names, difference, None, None, None, counts, "no spread between seeds", confidence)
    interval, p = student(difference, error, freedom, confidence)
    return Difference(names, difference, interval, p, None, counts, method, confidence)
