"""Several schedules one after the other, each on a clock of its own.

parts: each has a schedule and a length; the last part has none and takes the rest. A length is counted on the clock of
the whole (a share is a share of the run). Inside, step 0 is the first step of the part, and the run is the part:
`warmup: 0.1dur` of a part of 20 epochs are two epochs. With B the first step of the part in force and n its steps,
    lr(t) = lr of that part's schedule at step t - B of a run of n steps
which is torch's SequentialLR, with milestones at the first steps of the parts, for schedulers that end with their part.

Parts may be any schedule, another sequence too. One that reacts to what was measured sees the evaluations from its
first step (the evaluation before it included) to the one before the next part. Where a part does not set the momentum,
it stays where an earlier part left it; if there is none, the optimizer keeps its own.

Memory   {number of the part, as text: its memory}, for the parts that have one.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.basis.settings import Settings
from groundup.optim.schedules.base import LiveRates, Memory, Schedule, whole

if TYPE_CHECKING:  # the family that this file's class is a member of; its module completes the class
    from groundup.optim.schedules import ScheduleSettings


class SequencePart(Settings):
    """A schedule and how long it is in force."""

    schedule: "ScheduleSettings" = Field(description="Any schedule, with its settings; its clock is that of the part.")
    length: Duration | None = Field(
        None, description="Length of the part, at least one step; null, for the last part alone: the rest of the run."
    )


class SequenceSettings(Schedule):
    """One schedule after the other."""

    name: Literal["sequence"] = Field("sequence", description="Several schedules one after the other.")
    parts: tuple[SequencePart, ...] = Field(
        description="Two or more, in order; all but the last have a length, and leave a step or more for the last."
    )

    @model_validator(mode="after")
    def _parts_fill_the_run(self) -> "SequenceSettings":
        if len(self.parts) < 2:
            raise ValueError(
                f"a sequence of {len(self.parts)} parts; allowed: two or more, else write the schedule alone"
            )
        *before, last = self.parts
        for number, part in enumerate(before):
            if part.length is None:
                raise ValueError(f"part {number} has no length; every part but the last needs one, e.g. length: 5ep")
        if last.length is not None:
            raise ValueError(
                f"part {len(before)}, the last, has length={last.length}; it takes the rest of the run: leave it out"
            )
        return self

    @property
    def peak(self) -> float:
        return max(part.schedule.peak for part in self.parts)

    @property
    def metrics_needed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.schedule.metrics_needed))

    def check(self, clock: Clock, key: str = "schedule") -> None:
        *before, rest = self._lengths(clock)
        for number, length in enumerate(before):
            if length < 1:
                raise UsageError(
                    f"{key}.parts.{number}.length={self.parts[number].length}: {length} steps; allowed: at least one",
                    hint=f"make the part longer, or take {key}.parts.{number} out",
                )
        if rest < 1:
            written = " + ".join(str(part.length) for part in self.parts[:-1])
            raise UsageError(
                f"{key}.parts: the lengths {written} are {sum(before)} steps in a {whole(key)} of {clock.total_steps} "
                f"steps; allowed: at most {clock.total_steps - 1}, so that a step is left for the last part",
                hint=f"write the lengths as shares of the {whole(key)}, e.g. length: 0.1dur, or train longer",
            )
        for number, (part, length) in enumerate(zip(self.parts, (*before, rest), strict=True)):
            part.schedule.check(Clock(clock.steps_per_epoch, length), f"{key}.parts.{number}.schedule")

    def memory(self) -> Memory:
        return {str(number): part.schedule.memory() for number, part in enumerate(self.parts) if part.schedule.stateful}

    def observe(self, memory: Memory, record: Mapping[str, float], step: int, clock: Clock) -> Memory:
        number, first, own_clock = self._in_force(min(step, clock.total_steps - 1), clock)
        schedule = self.parts[number].schedule
        if not schedule.stateful:
            return memory
        return {**memory, str(number): schedule.observe(memory[str(number)], record, step - first, own_clock)}

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        number, first, own_clock = self._in_force(step, clock)
        rates = self.parts[number].schedule.at(step - first, own_clock, memory.get(str(number)))
        if rates.momentum is None and first > 0:
            return LiveRates(rates.lr, self._rates(first - 1, clock, memory).momentum)
        return rates

    def _lengths(self, clock: Clock) -> list[int]:
        """Steps of each part; the last may be negative if `check` has not been asked."""
        lengths = [clock.steps(part.length) for part in self.parts if part.length is not None]
        return [*lengths, clock.total_steps - sum(lengths)]

    def _in_force(self, step: int, clock: Clock) -> tuple[int, int, Clock]:
        """Number of the part in force at `step`, its first step, and its clock."""
        lengths = self._lengths(clock)
        ends = list(accumulate(lengths))
        number = next(number for number, end in enumerate(ends) if step < end)
        return number, ends[number] - lengths[number], Clock(clock.steps_per_epoch, lengths[number])
