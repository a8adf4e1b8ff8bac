"""One cycle: the rate rises to `max_lr`, then falls far below its start; the momentum may go the other way.

Value for value torch's OneCycleLR with two phases, stepped once per update. With T steps in the run and R = rise (not
rounded for a share of the run, as in torch), the peak lies at step R - 1 and the end at the last performed step T - 1:
    0 <= t <= R - 1        from max_lr / div_factor to max_lr
    R - 1 < t <= T - 1     from max_lr to max_lr / div_factor / final_div_factor
along half a cosine or a straight line. With `cycle_momentum` the momentum falls from `max_momentum` to `base_momentum`
and comes back, in the same phases and shapes; else the optimizer keeps its own momentum.

Source   Smith, Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates" (2018).
Changed  `cycle_momentum` is off unless asked for (torch: on), so that the momentum of the optimizer is what it says.
Values   max_lr 0.1 to 0.3 for SGD at batch 256; rise 0.3dur.
Hurts    with AdamW or Muon, cycling the momentum up to 0.95 changes their first moment: choose the range for them.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules.base import LiveRates, Memory, Rate, Schedule, whole

_BASE_MOMENTUM, _MAX_MOMENTUM = 0.85, 0.95


class OneCycleSettings(Schedule):
    """One rise and one fall over the whole run."""

    name: Literal["one_cycle"] = Field("one_cycle", description="One rise, one longer fall.")
    max_lr: Rate
    rise: Duration = Field(Duration(0.3, "dur"), description="Length of the rise, at most the run (torch: pct_start).")
    div_factor: float = Field(25.0, ge=1, description="The rate starts at max_lr / div_factor; at least 1.")
    final_div_factor: float = Field(1e4, ge=1, description="The rate ends at max_lr / div_factor / this; at least 1.")
    anneal: Literal["cos", "linear"] = Field("cos", description="Shape of both phases: cos (half a cosine) or linear.")
    cycle_momentum: bool = Field(False, description="Whether the momentum (AdamW: first beta) cycles against the rate.")
    base_momentum: float = Field(
        _BASE_MOMENTUM, ge=0, lt=1, description="Momentum at the peak of the rate, in [0, 1); needs cycle_momentum."
    )
    max_momentum: float = Field(
        _MAX_MOMENTUM, ge=0, lt=1, description="Momentum at start and end, in [0, 1); needs cycle_momentum."
    )

    @model_validator(mode="after")
    def _momentum_range_is_used_and_ordered(self) -> "OneCycleSettings":
        written = f"base_momentum={self.base_momentum}, max_momentum={self.max_momentum}"
        if self.base_momentum > self.max_momentum:
            raise ValueError(f"{written}: base_momentum must not be above max_momentum")
        if not self.cycle_momentum and (self.base_momentum, self.max_momentum) != (_BASE_MOMENTUM, _MAX_MOMENTUM):
            raise ValueError(f"{written} do nothing without cycle_momentum: true")
        return self

    @property
    def peak(self) -> float:
        return self.max_lr

    def check(self, clock: Clock, key: str = "schedule") -> None:
        if clock.steps(self.rise) > clock.total_steps:
            raise UsageError(
                f"{key}.rise={self.rise}: {clock.steps(self.rise)} steps in a {whole(key)} of {clock.total_steps} steps; "
                f"allowed: at most the {whole(key)}",
                hint=f"write the rise as a share of the {whole(key)}, e.g. {key}.rise=0.3dur",
            )

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        peak_step = self._rise_steps(clock) - 1
        start_lr = self.max_lr / self.div_factor
        if step <= peak_step:
            share = step / peak_step if peak_step else 1.0  # a rise of one step is the peak itself
            lrs, momenta = (start_lr, self.max_lr), (self.max_momentum, self.base_momentum)
        else:
            share = (step - peak_step) / (clock.total_steps - 1 - peak_step)
            lrs, momenta = (self.max_lr, start_lr / self.final_div_factor), (self.base_momentum, self.max_momentum)
        return LiveRates(self._between(*lrs, share), self._between(*momenta, share) if self.cycle_momentum else None)

    def _rise_steps(self, clock: Clock) -> float:
        """The rise in steps. A share of the run stays unrounded: torch puts the peak between two steps."""
        if self.rise.unit == "dur":
            return self.rise.value * clock.total_steps
        return float(clock.steps(self.rise))

    def _between(self, first: float, last: float, share: float) -> float:
        if self.anneal == "cos":
            return last + (first - last) / 2.0 * (math.cos(math.pi * share) + 1)
        return (last - first) * share + first
