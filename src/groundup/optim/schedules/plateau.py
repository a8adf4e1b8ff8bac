"""Reduce on plateau: the rate is multiplied by `factor` when a metric has not improved for longer than `patience`.

After each evaluation, at s finished updates, with the best value so far and c, the step from which patience counts:
    the metric is better than the best by more than `threshold`     it is the new best, c = max(c, s)
    else, if s - c > patience                                       lr = max(lr * factor, min_lr), c = s + cooldown
c begins at the end of the warm-up. Better means, for a metric that shall fall (for an accuracy with the signs turned):
    rel   value < best * (1 - threshold)
    abs   value < best - threshold
NaN is never better. With one evaluation per epoch, and durations in whole epochs, this is torch's
ReduceLROnPlateau(factor, patience, threshold, threshold_mode, cooldown, min_lr) stepped once per epoch.

Memory   `lr`: the rate in force; `best`: the best value, None before the first; `since`: the step c.
Changed  patience and cooldown are durations, not numbers of evaluations. The direction follows from the metric; one
         that contradicts it is refused. torch's `eps`, below which a reduction is left out, does not exist here.
Values   factor 0.1 to 0.5, patience 3ep to 10ep, threshold 1e-4 to 1e-3.
Hurts    short runs, in which the plateau comes late or never; noisy metrics, which reset or run out the patience.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError, listed
from groundup.optim.schedules.base import LiveRates, Memory, WarmedUpSchedule, whole


class PlateauSettings(WarmedUpSchedule):
    """Decay by a factor whenever a metric stops improving."""

    name: Literal["plateau"] = Field("plateau", description="Decay when a metric stops improving.")
    factor: float = Field(0.1, gt=0, lt=1, description="Factor on the rate at each plateau, between 0 and 1.")
    patience: Duration = Field(
        Duration(10, "ep"), description="How long the metric may fail to improve; the rate falls when it is longer."
    )
    metric: Literal["validation_loss", "validation_top1", "train_loss", "train_top1"] = Field(
        "validation_loss", description="What is watched."
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="Whether the metric shall fall (min) or rise (max); null: as the metric demands."
    )
    threshold: float = Field(1e-4, ge=0, description="By how much a value has to be better than the best to count.")
    threshold_mode: Literal["rel", "abs"] = Field(
        "rel",
        description="Unit of the threshold: a share of the best value, below 1 (rel), or that of the metric (abs).",
    )
    cooldown: Duration = Field(
        Duration(0, "ep"), description="How long after a reduction patience does not count yet; 0ep: it counts at once."
    )
    min_lr: float = Field(0.0, ge=0, description="The rate does not fall below this; from 0, below `lr`.")

    @model_validator(mode="after")
    def _mode_fits_the_metric(self) -> "PlateauSettings":
        if self.mode is not None and self.mode != self._direction:
            kind, wanted = ("a loss", "falls") if self._direction == "min" else ("an accuracy", "rises")
            raise ValueError(
                f"mode={self.mode} contradicts metric={self.metric}: {kind} gets better when it {wanted}, so the rate "
                f"would drop every {self.patience} whatever happens; leave mode out, or use the schedule `step` for "
                "drops at fixed times"
            )
        return self

    @model_validator(mode="after")
    def _reductions_are_possible(self) -> "PlateauSettings":
        if self.min_lr >= self.lr:
            raise ValueError(f"min_lr={self.min_lr} is not below lr={self.lr}: the rate could never fall")
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise ValueError(
                f"threshold={self.threshold:g} is a share of the best value with threshold_mode: rel; below 1"
            )
        return self

    @model_validator(mode="after")
    def _threshold_can_be_passed(self) -> "PlateauSettings":
        if self.metric.endswith("top1") and self.threshold_mode == "abs" and self.threshold >= 1:
            raise ValueError(
                f"threshold={self.threshold:g}: {self.metric} is a fraction from 0 to 1, so that nothing would ever count as "
                f"better; allowed: below 1; for {self.threshold:g} points of percent write {self.threshold / 100:g}"
            )
        return self

    @property
    def metrics_needed(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def _direction(self) -> Literal["min", "max"]:
        return "min" if self.metric.endswith("loss") else "max"

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        left = clock.total_steps - clock.steps(self.warmup)
        if clock.steps(self.patience) >= left:
            raise UsageError(
                f"{key}.patience={self.patience}: {clock.steps(self.patience)} steps, but the {whole(key)} has {left} "
                "steps after the warm-up, so the rate could never fall; allowed: less than that",
                hint=f"write the patience as a share of the {whole(key)}, e.g. {key}.patience=0.1dur, or train longer",
            )

    def memory(self) -> Memory:
        return {"lr": self.lr, "best": None, "since": 0}

    def observe(self, memory: Memory, record: Mapping[str, float], step: int, clock: Clock) -> Memory:
        if self.metric not in record:
            raise UsageError(
                f"schedule plateau: metric={self.metric!r} is not in the record of the evaluation; there are: {listed(record)}",
                hint="hold images back for validation (e.g. data.validation=0.1), or watch metric: train_loss",
            )
        lr, best, value = memory["lr"], memory["best"], record[self.metric]
        since = max(memory["since"], clock.steps(self.warmup))
        if self._is_better(value, best):
            best, since = value, max(since, step)
        elif step - since > clock.steps(self.patience):
            lr, since = max(lr * self.factor, self.min_lr), step + clock.steps(self.cooldown)
        return {"lr": lr, "best": best, "since": since}

    def _is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` improves on `best` (None: none yet) by more than the threshold; False for NaN."""
        sign = 1 if self._direction == "min" else -1
        known = sign * math.inf if best is None else best
        if self.threshold_mode == "rel":
            return sign * value < sign * known * (1 - sign * self.threshold)
        return sign * value < sign * known - self.threshold

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        return super()._rates(step, clock, memory) if step < clock.steps(self.warmup) else LiveRates(memory["lr"])

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        return self.lr
