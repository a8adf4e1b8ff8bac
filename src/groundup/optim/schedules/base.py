"""What every schedule is: settings, and a pure function of (step, clock, memory) that gives the rates of one update.

Steps are 0-based: `at(step, clock)` gives the rates that update number `step` uses. The run performs the steps
0 .. total_steps - 1. A schedule that ends at some rate has it at step `total_steps`, which is never performed, as
torch's CosineAnnealingLR(T_max=total_steps) has it: the last update still moves the weights when the final rate is 0.
(`one_cycle` keeps its own convention, torch's OneCycleLR: its last performed step has the final rate.)

A schedule that reacts to what was measured (`plateau`) keeps nothing in itself either: what it has to remember is a
`Memory`, which the run carries along and saves. `observe` makes a new one of it after each evaluation. All others need
none: their memory is empty.

The schedule is the only place that holds a learning rate. Optimizers hold multipliers of it (`lr_scale`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.basis.settings import Settings

Rate = Annotated[float, Field(gt=0, description="Peak learning rate, above 0.")]
FinalRate = Annotated[
    float, Field(ge=0, description="Learning rate at the end of the run (step total_steps), from 0 up to `lr`.")
]

Memory = dict[str, Any]  # plain numbers, strings, None and dicts of them: it goes into the checkpoint


@dataclass(frozen=True)
class LiveRates:
    """The rates of one update: learning rate, and momentum (None: the optimizer keeps its own)."""

    lr: float
    momentum: float | None = None


class Schedule(Settings):
    """Base of all schedules: a pure function of step, clock and memory, so that it can be drawn and resumed."""

    name: str = Field(description="Which schedule.")

    @property
    @abstractmethod
    def peak(self) -> float:
        """The highest learning rate."""

    @property
    def metrics_needed(self) -> tuple[str, ...]:
        """Names of the numbers of an evaluation's record that this schedule watches."""
        return ()

    @property
    def stateful(self) -> bool:
        """Whether the rates depend on what was measured, so that the memory has to be carried along."""
        return bool(self.metrics_needed)

    def check(self, clock: Clock, key: str = "schedule") -> None:
        """Raise UsageError if this schedule does not fit into a run of this length. `key`: where it stands in the recipe."""

    def memory(self) -> Memory:
        """What is remembered before the first step; empty for a schedule that depends on the step alone."""
        return {}

    def observe(self, memory: Memory, record: Mapping[str, float], step: int, clock: Clock) -> Memory:
        """The memory after an evaluation at `step` finished updates; `memory` itself is left as it is.

        record: the numbers of the evaluation by name; UsageError if one of `metrics_needed` is not among them.
        """
        return memory

    def at(self, step: int, clock: Clock, memory: Memory | None = None) -> LiveRates:
        """The rates of update number `step`, 0-based; ValueError outside 0 .. total_steps - 1.

        memory: None for the one before the first step, which is how a stateful schedule is drawn.
        """
        if not 0 <= step < clock.total_steps:
            raise ValueError(f"step {step} is outside the run: its steps are 0 to {clock.total_steps - 1}")
        return self._rates(step, clock, self.memory() if memory is None else memory)

    @abstractmethod
    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        """`at`, for a step known to lie inside the run."""


class WarmedUpSchedule(Schedule):
    """A schedule with one peak rate `lr`, and a linear warm-up before it.

    With W steps of warm-up and s = `warmup_start`, step k < W has lr * (s + (1 - s) * k / W), and step W, the first one
    after the warm-up, has exactly `lr`: torch's LinearLR(start_factor=s, total_iters=W). Without `warmup_start` the
    ramp is even, lr * (k + 1) / (W + 1), so that step 0 moves the weights too.
    """

    lr: Rate
    warmup: Duration = Field(
        Duration(0, "step"), description="Length of the linear warm-up from step 0, shorter than the run; 0step: none."
    )
    warmup_start: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of `lr` at step 0, between 0 and 1; null: an even ramp, 1 / (warm-up steps + 1).",
    )

    @model_validator(mode="after")
    def _warmup_start_needs_warmup(self) -> "WarmedUpSchedule":
        if self.warmup_start is not None and self.warmup.value == 0:
            raise ValueError(f"warmup_start={self.warmup_start} does nothing without a warm-up; set warmup as well")
        return self

    @property
    def peak(self) -> float:
        return self.lr

    def check(self, clock: Clock, key: str = "schedule") -> None:
        if clock.steps(self.warmup) >= clock.total_steps:
            raise UsageError(
                f"{key}.warmup={self.warmup}: {clock.steps(self.warmup)} steps of warm-up in a {whole(key)} of "
                f"{clock.total_steps} steps; allowed: less than the {whole(key)}",
                hint=f"write the warm-up as a share of the {whole(key)}, e.g. {key}.warmup=0.1dur, or train longer",
            )

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        start = clock.steps(self.warmup)
        if step >= start:
            return LiveRates(self._lr_after_warmup(step, start, clock))
        first = 1 / (start + 1) if self.warmup_start is None else self.warmup_start
        return LiveRates(self.lr * (first + (1 - first) * step / start))

    @abstractmethod
    def _lr_after_warmup(self, step: int, start: int, clock: Clock) -> float:
        """The learning rate at `step`; `start` <= `step` is the first step after the warm-up."""


class FallingSchedule(WarmedUpSchedule):
    """A schedule that goes down to `final_lr`, which it would have at step `total_steps`."""

    final_lr: FinalRate = 0.0

    @model_validator(mode="after")
    def _final_lr_is_not_above_lr(self) -> "FallingSchedule":
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr={self.final_lr} is above lr={self.lr}; for a rate that rises set warmup")
        return self


def whole(key: str) -> str:
    """What the clock of a schedule that stands at `key` in the recipe counts: the run, or a part of it."""
    return "run" if key == "schedule" else "part"


def curve(settings: Schedule, clock: Clock) -> list[LiveRates]:
    """The rates of every step of the run, to draw a schedule without training; a plateau as if it never came."""
    return [settings.at(step, clock) for step in range(clock.total_steps)]
