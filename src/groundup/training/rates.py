"""The learning rate (and momentum) of every step of a run: its schedule, those that phases put in its place, and SWA's own rate.

A schedule that a phase sets has a clock of its own, which begins with the phase and ends with the run. What it forgets
between steps, nothing; what a plateau has to remember is `memory`, part of the training state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim import LiveRates, Memory, Schedule
from groundup.training.average import SWASettings, swa_lr
from groundup.training.settings import Phase


@dataclass(frozen=True)
class Part:
    """A schedule in force from step `first` on; `clock` counts from there; `key`: where it stands in the recipe."""

    first: int
    schedule: Schedule
    clock: Clock
    key: str = "schedule"


@dataclass(frozen=True)
class Rates:
    """All schedules of a run, in order of their first step, and the clock of the whole run."""

    parts: tuple[Part, ...]
    clock: Clock
    swa: SWASettings | None = None

    @classmethod
    def of(cls, schedule: Schedule, phases: Sequence[Phase], clock: Clock, swa: SWASettings | None = None) -> "Rates":
        """Of a recipe whose phases begin inside the run (`LiveSchedule.of` checks that)."""
        parts = [Part(0, schedule, clock)]
        for place, phase in sorted(enumerate(phases), key=lambda numbered: clock.exact_steps(numbered[1].start)):
            if phase.set.schedule is not None:
                first = clock.steps(phase.start)
                rest = Clock(clock.steps_per_epoch, clock.total_steps - first)
                parts.append(Part(first, phase.set.schedule, rest, f"phases.{place}.set.schedule"))
        return cls(tuple(parts), clock, swa)

    def check(self) -> None:
        """UsageError if a schedule does not fit into its part of the run, or SWA's anneal does not know where to begin."""
        for part in self.parts:
            part.schedule.check(part.clock, part.key)
        if self.swa is not None and self.clock.steps(self.swa.anneal) and self.watched:
            raise UsageError(
                f"average.anneal={self.swa.anneal}: it begins at the schedule's rate, which follows {self.metrics_needed[0]} "
                "and may change while it lasts; allowed with such a schedule: 0step",
                hint="remove average.anneal, or take a schedule that depends on the step alone",
            )

    def memory(self) -> Memory:
        """What stateful schedules remember before the first step; {} if all are pure."""
        return {str(place): part.schedule.memory() for place, part in enumerate(self.parts) if part.schedule.stateful}

    def at(self, step: int, memory: Memory | None = None) -> LiveRates:
        """The rates of update number `step`, 0-based."""
        rates = self._scheduled(step, memory)
        if self.swa is None or self.swa.lr is None:
            return rates
        lr = swa_lr(self.swa, step, self.clock, lambda earlier: self._scheduled(earlier, memory).lr)
        return LiveRates(lr, rates.momentum)

    def observe(self, memory: Memory, record: Mapping[str, Any], step: int) -> Memory:
        """The memory after an evaluation at `step` finished updates."""
        place = self._in_force(min(step, self.clock.total_steps - 1))
        part = self.parts[place]
        if not part.schedule.stateful:
            return memory
        return {
            **memory,
            str(place): part.schedule.observe(memory[str(place)], record, step - part.first, part.clock),
        }

    @property
    def watched(self) -> list[tuple[str, str]]:
        """What the schedules watch: (key in the recipe, name of the number)."""
        return [(f"{part.key}.metric", name) for part in self.parts for name in part.schedule.metrics_needed]

    @property
    def metrics_needed(self) -> tuple[str, ...]:
        """Names of the numbers that the schedules watch."""
        return tuple(dict.fromkeys(name for _, name in self.watched))

    def _scheduled(self, step: int, memory: Memory | None) -> LiveRates:
        place = self._in_force(step)
        part = self.parts[place]
        return part.schedule.at(step - part.first, part.clock, (memory or {}).get(str(place)))

    def _in_force(self, step: int) -> int:
        return max(place for place, part in enumerate(self.parts) if part.first <= step)
