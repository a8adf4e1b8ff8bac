"""Trapezoid: warm up linearly, hold, cool down to `final_lr`.

With C steps of cool-down in a run of T and u = (t - (T - C)) / C, the share of the cool-down done before step t:
    linear   lr(t) = final_lr + (lr - final_lr) * (1 - u)
    sqrt     lr(t) = final_lr + (lr - final_lr) * (1 - sqrt(u))
Step T - C still has `lr`; step T, which is never performed, would have `final_lr`.

Source   Zhai et al., "Scaling Vision Transformers" (2022); Haegele et al., "Scaling Laws and Compute-Optimal Training
         Beyond Fixed Training Durations" (2024), for the sqrt shape and its lengths.
Values   cool-down of 10 to 30% of the run; warm-up and cool-down may meet, which gives a triangle.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import FallingSchedule, whole


class TrapezoidSettings(FallingSchedule):
    """Up, flat, down."""

    name: Literal["trapezoid"] = Field("trapezoid", description="Warm up, hold, cool down.")
    warmup: Duration = Field(
        Duration(0.1, "dur"), description="Length of the linear warm-up from step 0, shorter than the run; 0step: none."
    )
    cooldown: Duration = Field(
        Duration(0.3, "dur"), description="Length of the cool-down that ends with the run; 0step: hold to the end."
    )
    shape: Literal["linear", "sqrt"] = Field(
        "linear", description="Shape of the cool-down: linear, or sqrt (1 - square root: fast first, then flat)."
    )

    @model_validator(mode="after")
    def _final_lr_needs_cooldown(self) -> "TrapezoidSettings":
        if self.final_lr and self.cooldown.value == 0:
            raise ValueError(f"final_lr={self.final_lr} does nothing without a cool-down; set cooldown as well")
        return self

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        warmup, cooldown = clock.steps(self.warmup), clock.steps(self.cooldown)
        if warmup + cooldown > clock.total_steps:
            raise UsageError(
                f"{key}.cooldown={self.cooldown}: {cooldown} steps after {key}.warmup={self.warmup}, {warmup} "
                f"steps, in a {whole(key)} of {clock.total_steps} steps; allowed: at most {clock.total_steps - warmup} steps",
                hint=f"write both as shares of the {whole(key)}, e.g. {key}.warmup=0.1dur {key}.cooldown=0.3dur",
            )

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        length = clock.steps(self.cooldown)
        into = step - (clock.total_steps - length)
        if into <= 0:
            return self.lr
        done = into / length
        return self.final_lr + (self.lr - self.final_lr) * (1 - (math.sqrt(done) if self.shape == "sqrt" else done))
