"""Exponential decay: the rate is multiplied by `gamma` over every `per`, little by little or (`stepwise`) at once.

With W steps of warm-up and P steps of `per`:
    lr(t) = lr * gamma ** ((t - W) / P)                 torch's ExponentialLR(gamma ** (1 / P)) stepped once per update
    lr(t) = lr * gamma ** floor((t - W) / P)            stepwise: ExponentialLR(gamma) stepped once per `per`

Source   Szegedy et al., "Rethinking the Inception Architecture" (2016): 0.94 every two epochs; EfficientNet (Tan, Le
         2019): 0.97 every 2.4 epochs, both with RMSprop on ImageNet.
Values   gamma 0.94 to 0.98 per epoch: the rate at the end of E epochs is lr * gamma ** E, a hundredth at 0.955 ** 100.
Hurts    runs of another length: gamma does not know how long the run is.
"""

from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import WarmedUpSchedule


class ExponentialSettings(WarmedUpSchedule):
    """Decay by a constant factor per epoch, or per any other length."""

    name: Literal["exponential"] = Field("exponential", description="Exponential decay.")
    gamma: float = Field(gt=0, lt=1, description="Factor on the rate over each `per`, between 0 and 1.")
    per: Duration = Field(
        Duration(1, "ep"), description="Length over which the rate falls by `gamma`, at least one step."
    )
    stepwise: bool = Field(
        False, description="Hold the rate for `per` and then drop it, instead of falling every step."
    )

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        if clock.steps(self.per) < 1:
            raise UsageError(
                f"{key}.per={self.per}: less than one step at {clock.steps_per_epoch} steps per epoch; "
                "allowed: at least one step",
                hint=f"write {key}.per=1step, or a longer time",
            )

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        into, per = step - start, max(1, clock.steps(self.per))
        return self.lr * self.gamma ** (into // per if self.stepwise else into / per)
