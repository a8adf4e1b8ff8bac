"""Inverse square root: after the warm-up the rate falls as one over the root of the steps done, whatever the run's length.

With W steps of warm-up and T0 = `timescale` in steps, or W without one:
    t >= W     lr(t) = lr * sqrt(T0 / max(t, T0))
where t counts from step 0 of the run, the warm-up included: `lr` up to step T0, half of it at step 4 * T0.

Source   Vaswani et al., "Attention Is All You Need" (2017), with T0 = W; Zhai et al., "Scaling Vision Transformers"
         (2022), who end it with a cool-down.
Values   T0 = W = 4000 steps for Transformers; 10,000 steps for ViT.
Hurts    at the end of a run the rate is still high: in a `sequence`, let a short `ramp` or `linear` follow.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import WarmedUpSchedule, whole


class InverseSqrtSettings(WarmedUpSchedule):
    """Decay as the inverse square root of the step."""

    name: Literal["inverse_sqrt"] = Field("inverse_sqrt", description="Decay as 1 / sqrt(step).")
    timescale: Duration | None = Field(
        None,
        description="Step from which on the rate falls (T0), at least the warm-up, shorter than the run; null: the warm-up.",
    )

    @model_validator(mode="after")
    def _has_a_timescale(self) -> "InverseSqrtSettings":
        if (self.timescale or self.warmup).value == 0:
            raise ValueError("neither warmup nor timescale says when the rate begins to fall; set one of them")
        return self

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        named, steps = self._named_timescale(), self._timescale_steps(clock)
        earliest = max(1, clock.steps(self.warmup))
        if not earliest <= steps < clock.total_steps:
            raise UsageError(
                f"{key}.{named}: {steps} steps; allowed: from {earliest} (the warm-up, at least 1) to "
                f"{clock.total_steps - 1}, the last step of the {whole(key)}",
                hint=f"write it as a share of the {whole(key)}, e.g. {key}.{named.partition('=')[0]}=0.1dur",
            )

    def _named_timescale(self) -> str:
        return f"timescale={self.timescale}" if self.timescale is not None else f"warmup={self.warmup}"

    def _timescale_steps(self, clock: Clock) -> int:
        return clock.steps(self.timescale or self.warmup)

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        timescale = max(1, self._timescale_steps(clock))
        return self.lr * math.sqrt(timescale / max(step, timescale))
