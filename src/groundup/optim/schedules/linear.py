"""Linear decay from `lr`, reached at the end of the warm-up, to `final_lr`.

With W steps of warm-up in a run of T: lr(t) = lr + (final_lr - lr) * (t - W) / (T - W), which is torch's
LinearLR(start_factor=1.0, end_factor=final_lr / lr, total_iters=T - W). The last performed step, T - 1, is one step above
`final_lr`.

Source   Budgeted training: Li, Yumer, Ramanan 2020 (linear decay for short runs); used by the CIFAR-10 speed records.
Values   warm-up of 0 to 25% of the run, final_lr 0.
"""

from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock
from groundup.optim.schedules.base import FallingSchedule


class LinearSettings(FallingSchedule):
    """A straight line from `lr` to `final_lr`."""

    name: Literal["linear"] = Field("linear", description="Linear decay.")

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        return self.lr + (self.final_lr - self.lr) * (step - start) / (clock.total_steps - start)
