"""Constant learning rate after an optional linear warm-up.

Values   SGD 0.1 at batch 128, AdamW 1e-3; a baseline to compare the decaying schedules with.
Hurts    the final accuracy: without a decay the weights keep moving at the scale of the rate.
"""

from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock
from groundup.optim.schedules.base import WarmedUpSchedule


class ConstantSettings(WarmedUpSchedule):
    """The rate stays at `lr`."""

    name: Literal["constant"] = Field("constant", description="Constant rate.")

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        return self.lr
