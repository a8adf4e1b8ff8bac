"""Polynomial decay from `lr`, reached at the end of the warm-up, to `final_lr`.

With W steps of warm-up in a run of T: lr(t) = final_lr + (lr - final_lr) * (1 - (t - W) / (T - W)) ** power, which with
final_lr 0 is torch's PolynomialLR(total_iters=T - W, power=power). The last performed step, T - 1, is above `final_lr`.

Source   used by Liu, Rabinovich, Berg, "ParseNet" (2015) and since then for segmentation; LARS (You, Gitman, Ginsburg
         2017) for ImageNet in large batches.
Values   power 0.9 (segmentation), 2 (LARS); power 1 is the schedule `linear`.
"""

from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock
from groundup.optim.schedules.base import FallingSchedule


class PolynomialSettings(FallingSchedule):
    """A power of the share of the run that is left."""

    name: Literal["polynomial"] = Field("polynomial", description="Polynomial decay.")
    power: float = Field(
        gt=0, description="Exponent, above 0: below 1 falls late, above 1 early; 1 is a straight line."
    )

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        left = 1 - (step - start) / (clock.total_steps - start)
        return self.final_lr + (self.lr - self.final_lr) * left**self.power
