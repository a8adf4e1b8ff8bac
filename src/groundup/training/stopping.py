"""Ending a run before its length: early stopping, and a target that is reached. Looked at after every evaluation.

What has to be remembered (the best value so far, and when it was) is plain data and part of the training state.
"""

import math
from collections.abc import Mapping
from typing import Any

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.training.settings import EarlyStop, StopSettings, Target

Watched = dict[str, float]  # `best`: the best value so far; `step`: when it was seen


def observe(
    settings: StopSettings, watched: Watched, record: Mapping[str, Any], step: int, clock: Clock
) -> tuple[Watched, str | None]:
    """What to remember after an evaluation at `step` finished updates, and why the run ends here, or None.

    UsageError if the record lacks a metric that is watched. A metric that is not a number is never better.
    """
    reason = None if settings.target is None else _reached(settings.target, record)
    if settings.early is None or not _is_measured(settings.early.metric, record):
        return watched, reason
    value = _value(settings.early.metric, record, "stop.early")
    if not watched or _gain(settings.early, value, watched["best"]) > settings.early.min_gain:
        return {"best": value, "step": step}, reason
    return watched, reason or _out_of_patience(settings.early, watched, step, clock)


def _is_measured(metric: str, record: Mapping[str, Any]) -> bool:
    """False as long as a metric of an average has to wait for the average's first sample."""
    return metric in record or not (metric.startswith("average_") and metric.removeprefix("average_") in record)


def _reached(target: Target, record: Mapping[str, Any]) -> str | None:
    if not _is_measured(target.metric, record):
        return None
    value = _value(target.metric, record, "stop.target")
    if not (value <= target.value if target.metric.endswith("loss") else value >= target.value):
        return None
    return f"target: {target.metric} {value:.4g} has reached {target.value:g}"


def _out_of_patience(early: EarlyStop, watched: Watched, step: int, clock: Clock) -> str | None:
    if step - watched["step"] < clock.steps(early.patience):
        return None
    best = f"{watched['best']:.4g} at step {int(watched['step'])}"
    return f"early: {early.metric} has not got better than {best} for {early.patience}"


def _gain(early: EarlyStop, value: float, best: float) -> float:
    if math.isnan(value):
        return -math.inf
    if math.isnan(best):
        return math.inf
    return best - value if early.metric.endswith("loss") else value - best


def _value(metric: str, record: Mapping[str, Any], key: str) -> float:
    if metric not in record:
        measured = ", ".join(name for name in record if name.endswith(("_loss", "_top1")))
        raise UsageError(
            f"{key}.metric={metric!r}: was not measured; allowed here: {measured}",
            hint="set data.validation=0.1 for validation metrics, and average for average_ metrics",
        )
    return float(record[metric])
