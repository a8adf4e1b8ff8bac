"""Cosine decay from `lr`, reached at the end of the warm-up, to `final_lr`.

With W steps of warm-up in a run of T: lr(t) = final_lr + (lr - final_lr) * (1 + cos(pi * (t - W) / (T - W))) / 2, which
is torch's CosineAnnealingLR(T_max=T - W, eta_min=final_lr) stepped once per update. Step T would have `final_lr`; the
last performed step, T - 1, is just above it.

Source   Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), one period, no restart.
Values   SGD 0.1 at batch 128 with final_lr 0 for 200 epochs of CIFAR; 5 epochs of warm-up at large batches.
"""

import math
from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock
from groundup.optim.schedules.base import FallingSchedule


class CosineSettings(FallingSchedule):
    """Half a cosine from `lr` to `final_lr`."""

    name: Literal["cosine"] = Field("cosine", description="Cosine decay, one period, no restart.")

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        angle = math.pi * (step - start) / (clock.total_steps - start)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(angle)) / 2
