"""Ramp: a straight line from `start_lr` to `lr`, up or down, over the whole run; a part of a `sequence`.

lr(t) = start_lr + (lr - start_lr) * t / T in a run of T steps, which is torch's
LinearLR(start_factor=start_lr / lr, total_iters=T). Step T, which is never performed, would have `lr`; in a sequence it
is the first step of the next part.

Values   0.01 to 0.1 over the first 5 epochs at batch 256. A rise before a decay is also `warmup` of the decay itself.
Hurts    nothing by itself, but the run ends on its way: after a rise something has to bring the rate down.
"""

from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock
from groundup.optim.schedules.base import LiveRates, Memory, Schedule


class RampSettings(Schedule):
    """A straight line between two rates."""

    name: Literal["ramp"] = Field("ramp", description="Straight line from start_lr to lr.")
    start_lr: float = Field(gt=0, description="Learning rate of step 0, above 0; above or below `lr`.")
    lr: float = Field(gt=0, description="Learning rate that the line ends at, above 0.")

    @property
    def peak(self) -> float:
        return max(self.start_lr, self.lr)

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        return LiveRates(self.start_lr + (self.lr - self.start_lr) * step / clock.total_steps)
