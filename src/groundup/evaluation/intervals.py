"""How sure a number is: the interval of one accuracy, and of a mean over seeds.

`wilson` is the score interval of a proportion (E. B. Wilson, Probable inference, the law of succession, and
statistical inference, JASA 22, 1927): it covers what it says near 0 and 1 too, where the textbook p +- 1.96 s fails.
It speaks of the choice of test images alone. `mean_interval` is Student's t interval: it speaks of the choice of seeds
alone.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from groundup.basis.errors import GroundupError


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson interval of the fraction `successes / count`, within [0, 1]; (0, 1) when nothing was counted."""
    _require_confidence(confidence)
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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of `values` (one per seed) and its t interval: (mean, low, high). At least two values are needed."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy comes with scikit-learn

    _require_confidence(confidence)
    if len(values) < 2:
        raise GroundupError(
            f"an interval over seeds needs at least 2 results, got {len(values)}", hint="train with more seeds"
        )
    mean = fmean(values)
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
