"""Live settings: the values that phases may change, as a pure function of the step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from groundup.augment import MixSettings, Operation
from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.training.settings import Phase


@dataclass(frozen=True)
class LiveValues:
    """What is in force at one step. `resolution`: side in px; `policy`: operations; `label_smoothing`: in [0, 1).

    `dropout`: inside the blocks, in [0, 1); None where no phase touches it, and the network keeps what it was built with.
    """

    resolution: int
    policy: tuple[Operation, ...]
    label_smoothing: float
    mix: MixSettings = field(default_factory=MixSettings)
    dropout: float | None = None


def _refuse_twice(phases: Sequence[Phase], clock: Clock) -> None:
    """Points that a short run merely rounds to one step are another matter: its recipe is right."""
    seen: dict[tuple[float, str], int] = {}
    for place, phase in enumerate(phases):
        for key in phase.set.model_fields_set:
            point = (round(clock.exact_steps(phase.start), 6), key)
            if (earlier := seen.setdefault(point, place)) != place:
                name = type(phase.set).model_fields[key].alias or key
                raise UsageError(
                    f"phases.{place}.from={str(phase.start)!r}: phases.{earlier}, from {phases[earlier].start}, begins at the same "
                    f"step and sets {name} too, so that its value would never be in force; allowed: one value for a key",
                    hint=f"remove {name} from one of the two, or let one begin later",
                )


@dataclass(frozen=True)
class LiveSchedule:
    """The values before any phase, and the phases in the order in which they begin: (first step, changes)."""

    base: LiveValues
    changes: tuple[tuple[int, dict[str, object]], ...]

    @classmethod
    def of(cls, base: LiveValues, phases: Sequence[Phase], clock: Clock) -> "LiveSchedule":
        """UsageError if a phase begins at or after the end of the run, or where another one sets the same key."""
        changes = []
        _refuse_twice(phases, clock)
        for place, phase in sorted(enumerate(phases), key=lambda numbered: clock.exact_steps(numbered[1].start)):
            step = clock.steps(phase.start)
            if step >= clock.total_steps:
                raise UsageError(
                    f"phases.{place}.from={str(phase.start)!r}: the phase would begin at step {step}, but the run has "
                    f"{clock.total_steps} steps; allowed: a point before the end",
                    hint="use a share of the run, such as 0.5dur, or a longer train.epochs",
                )
            changes.append((step, {key: getattr(phase.set, key) for key in phase.set.model_fields_set - {"schedule"}}))
        return cls(base, tuple(changes))

    def at(self, step: int) -> LiveValues:
        """The values for optimizer update number `step` (0-based)."""
        values = dict(vars(self.base))
        for first, change in self.changes:
            if step >= first:
                values.update(change)
        return LiveValues(**values)

    def everything(self) -> list[LiveValues]:
        """The values in force at the start and after each change, in order."""
        return [self.base, *(self.at(first) for first, _ in self.changes)]

    def resolutions(self) -> list[int]:
        """Every input size in px that the run will use, in order of first use."""
        return list(dict.fromkeys(self.at(step).resolution for step in (0, *(first for first, _ in self.changes))))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at any time of the run."""
        return any(values.mix.methods for values in self.everything())
