"""Cosine decay that starts again and again: warm restarts, or (`rebound`) a wave that climbs back the way it came.

With W steps of warm-up, cycle i has C_i = round(period * growth ** i) steps; u steps into it
    lr(t) = final_lr + (lr - final_lr) * (1 + cos(pi * u / C_i)) / 2
so that each cycle begins with exactly `lr`, and its last step is just above `final_lr`: torch's
CosineAnnealingWarmRestarts(T_0=period, T_mult=growth, eta_min=final_lr) stepped once per update, counted from the end
of the warm-up. With `rebound` there is no jump: u = t - W, C = period for all t, and the rate is back at `lr` after two
periods: what torch's CosineAnnealingLR(T_max=period) does when it is stepped beyond T_max.

Source   Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017).
Changed  `growth` need not be whole; cycles are rounded to whole steps. The period carries its unit: a period of 25step
         that was meant as 25ep is the mistake that this schedule is known for.
Values   period 10ep with growth 2, or 0.2dur with growth 1; SGD 0.05 to 0.1 at batch 128.
Hurts    a run that does not end at the end of a cycle ends at a high rate, and with a worse network. With `rebound` and
         final_lr 0 the update at the bottom does not move the weights.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import FallingSchedule


class CosineRestartsSettings(FallingSchedule):
    """Half cosines from `lr` to `final_lr`, one after the other."""

    name: Literal["cosine_restarts"] = Field("cosine_restarts", description="Cosine decay with warm restarts.")
    final_lr: float = Field(0.0, ge=0, description="Learning rate at the end of each cycle, from 0 up to `lr`.")
    period: Duration = Field(
        description="Length of the first cycle, from `lr` down to `final_lr`, at least one step (torch: T_0)."
    )
    growth: float = Field(
        1.0, ge=1, le=100, description="How many times longer each cycle is than the one before (torch: T_mult)."
    )
    rebound: bool = Field(
        False,
        description="Climb back to `lr` along the same cosine, `period` long, instead of jumping; needs growth 1.",
    )

    @model_validator(mode="after")
    def _rebound_keeps_its_period(self) -> "CosineRestartsSettings":
        if self.rebound and self.growth != 1:
            raise ValueError(
                f"growth={self.growth:g} does nothing with rebound: true, whose period stays; leave one out"
            )
        return self

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        if clock.steps(self.period) < 1:
            raise UsageError(
                f"{key}.period={self.period}: less than one step at {clock.steps_per_epoch} steps per epoch; "
                "allowed: at least one step",
                hint=f"write the period in epochs or as a share, e.g. {key}.period=10ep or {key}.period=0.2dur",
            )

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        into, length = self._place(step - start, max(1, clock.steps(self.period)))
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * into / length)) / 2

    def _place(self, into: int, period: int) -> tuple[int, int]:
        """Steps into the cycle and its length, `into` steps after the warm-up."""
        if self.growth == 1:
            return into % (2 * period if self.rebound else period), period
        exact = float(period)
        while into >= round(exact):
            into -= round(exact)
            exact *= self.growth
        return into, round(exact)
