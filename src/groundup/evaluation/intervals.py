"""How sure a number is: the interval of one accuracy, of a difference of two, of any metric, and of a mean over seeds.

`wilson` is the score interval of a proportion (E. B. Wilson, Probable inference, the law of succession, and
statistical inference, JASA 22, 1927): it covers what it says near 0 and 1 too, where the textbook p +- 1.96 s fails.
It speaks of the choice of test images alone, as do the next two. `newcombe` is the difference of two proportions counted
on different images, method 10 of R. G. Newcombe (Interval estimation for the difference between independent proportions,
Statistics in Medicine 17, 1998). `bootstrap` serves metrics that are no proportions: the basic (reflected) interval of
A. C. Davison and D. V. Hinkley (Bootstrap methods and their application, 1997, 5.2). `mean_interval` is Student's t interval:
it speaks of the choice of seeds alone.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

import torch
from torch import Tensor

from groundup.basis.errors import GroundupError


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson interval of the fraction `successes / count`, within [0, 1]; (0, 1) when nothing was counted."""
    require_confidence(confidence)
    if not 0 <= successes <= count:
        raise ValueError(f"successes must lie in [0, count], got {successes} of {count}")
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # The bounds at 0 and at `count` successes are exactly 0 and 1; rounding must not push them off.
    low = 0.0 if successes == 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if successes == count else min(1.0, (centre + reach) / scale)
    return low, high


def newcombe(first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the difference first - second of two shares, each (successes, count), of different images."""
    if first[1] == 0 or second[1] == 0:
        require_confidence(confidence)
        return -1.0, 1.0
    (low_1, high_1), (low_2, high_2) = wilson(*first, confidence), wilson(*second, confidence)
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    difference = share_1 - share_2
    below = math.hypot(share_1 - low_1, high_2 - share_2)
    above = math.hypot(high_1 - share_1, share_2 - low_2)
    return max(-1.0, difference - below), min(1.0, difference + above)


def bootstrap(
    statistic: Callable[[Tensor], float],
    count: int,
    *,
    generator: torch.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """The interval of a metric over the choice of `count` images.

    statistic: int64 (count,), the indices of the images drawn (with repetition) -> the metric on them. It is called
    `resamples` + 1 times: give it numbers per image that are computed once, not logits.
    within: the values the metric can have; the interval is cut to them.

    The resampled values are reflected at the estimate, so that a metric which is too high on few images gets an interval that
    is lower than the estimate, and not one that is higher still. That is no cure for a metric whose excess is as large as
    itself: calibration errors have `calibration.chance_ece` instead.
    """
    require_confidence(confidence)
    if count < 2:
        raise GroundupError(f"an interval over images needs at least 2 of them, got {count}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, got {resamples}")
    estimate = statistic(torch.arange(count))
    draws = torch.tensor(
        [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)], dtype=torch.float64
    )
    if not bool(torch.isfinite(draws).all()):
        raise GroundupError("the metric is not finite on some of the resampled images", hint="check the logits for NaN")
    tail = (1 - confidence) / 2
    low, high = (2 * estimate - float(draws.quantile(share)) for share in (1 - tail, tail))
    return max(low, within[0]), min(high, within[1])


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of `values` (one per seed) and its t interval: (mean, low, high). At least two values are needed."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy comes with scikit-learn

    require_confidence(confidence)
    if len(values) < 2:
        raise GroundupError(
            f"an interval over seeds needs at least 2 results, got {len(values)}", hint="train with more seeds"
        )
    mean = fmean(values)
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def require_confidence(confidence: float) -> None:
    """ValueError unless `confidence` is a share such as 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
