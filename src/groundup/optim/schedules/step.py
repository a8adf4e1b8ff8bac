"""Step decay: the rate is multiplied by `gamma` at each milestone.

lr(t) = lr * gamma ** (number of milestones <= t), torch's MultiStepLR. Milestones count from the start of the run, the
warm-up included, and the update at a milestone is the first one with the lower rate.

Source   He et al., "Deep Residual Learning for Image Recognition" (2016): factor 0.1 at 50% and 75% of the run;
         Zagoruyko, Komodakis, "Wide Residual Networks" (2016): factor 0.2 at 30%, 60% and 80%.
"""

from bisect import bisect_right
from itertools import pairwise
from typing import Literal

from pydantic import Field

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import WarmedUpSchedule, whole


class StepSettings(WarmedUpSchedule):
    """Piecewise constant, falling by `gamma` at each milestone."""

    name: Literal["step"] = Field("step", description="Decay by a factor at milestones.")
    milestones: tuple[Duration, ...] = Field(
        min_length=1,
        description="When the rate falls, from the start of the run: increasing, after the warm-up, inside the run.",
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="Factor on the rate at each milestone, between 0 and 1.")

    def check(self, clock: Clock, key: str = "schedule") -> None:
        super().check(clock, key)
        written = "[" + ", ".join(map(str, self.milestones)) + "]"
        steps = self._milestone_steps(clock)
        warmup = clock.steps(self.warmup)
        if any(late <= early for early, late in pairwise(steps)):
            raise UsageError(
                f"{key}.milestones={written}: steps {list(steps)}; allowed: increasing",
                hint="order the milestones, and keep them at least one step apart",
            )
        if steps[0] < max(1, warmup) or steps[-1] >= clock.total_steps:
            raise UsageError(
                f"{key}.milestones={written}: steps {list(steps)}; allowed: from step {max(1, warmup)} (the end of "
                f"the warm-up, at least 1) to step {clock.total_steps - 1} (the last of the {whole(key)})",
                hint=f"write the milestones as shares of the {whole(key)}, e.g. {key}.milestones=[0.5dur, 0.75dur]",
            )

    def _milestone_steps(self, clock: Clock) -> tuple[int, ...]:
        return tuple(clock.steps(milestone) for milestone in self.milestones)

    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        return self.lr * self.gamma ** bisect_right(self._milestone_steps(clock), step)
