"""The learning rate of a run, drawn before it begins: the plain schedules that it is made of, and a few hundred points of each.

A sequence is taken apart into its parts, and what a phase sets cuts short what was in force before; so does the constant rate of an
SWA. Only plain schedules are asked for rates: a sequence looks up its parts at every step, which is too slow for long runs. A
plateau is drawn as if it never came.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from groundup.basis.duration import Clock
from groundup.optim import Schedule
from groundup.optim.schedules import SequenceSettings
from groundup.optim.schedules.base import WarmedUpSchedule
from groundup.preflight.subject import Subject

_POINTS = 256


@dataclass(frozen=True)
class Piece:
    """A plain schedule. key: where it stands in the recipe; clock: its own, which begins at step `first` of the run.

    until: the step of the run from which on another one is in force; where it is `first`, the piece never is.
    """

    key: str
    schedule: Schedule
    first: int
    clock: Clock
    until: int

    @property
    def steps(self) -> int:
        """For how many steps it is in force."""
        return max(0, self.until - self.first)

    @property
    def is_cut(self) -> bool:
        """Whether another one takes over before its own end."""
        return self.until < self.first + self.clock.total_steps

    @property
    def warmup(self) -> int:
        """Steps of warm-up at its beginning."""
        return self.clock.steps(self.schedule.warmup) if isinstance(self.schedule, WarmedUpSchedule) else 0

    def lr(self, step: int) -> float:
        """The rate of update number `step` of the run."""
        return self.schedule.at(step - self.first, self.clock).lr

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """(step of the run, rate) while it is in force, in order: its first and last steps, those around the warm-up's end, and
        points in equal distances."""
        length = self.steps
        offsets = {0, 1, 2, self.warmup - 1, self.warmup, self.warmup + 1, length - 3, length - 2, length - 1}
        offsets |= {length * point // _POINTS for point in range(_POINTS)}
        steps = [self.first + offset for offset in sorted(offsets) if 0 <= offset < length]
        return [(step, self.lr(step)) for step in steps]

    @cached_property
    def highest(self) -> float:
        """The highest rate while it is in force."""
        return max(lr for _, lr in self.curve)

    @property
    def begins_with(self) -> float:
        """The rate of its first step."""
        return self.curve[0][1]

    @property
    def ends_with(self) -> float:
        """The rate of its last step in force."""
        return self.curve[-1][1]

    @property
    def is_rising_at_its_end(self) -> bool:
        """Whether it still goes up when another one takes over: the last rate is the highest, and twice the first or more."""
        is_highest = self.ends_with == self.highest and not self.is_flat_at_its_end
        return is_highest and self.ends_with >= 2 * self.begins_with

    @property
    def is_flat_at_its_end(self) -> bool:
        """Whether its last two steps have the same rate."""
        return len(self.curve) < 2 or self.curve[-2][1] == self.curve[-1][1]


def pieces(subject: Subject) -> list[Piece]:
    """All plain schedules of the run, in order of their first step, those too that are never in force."""
    recipe, clock = subject.recipe, subject.clock
    swa = subject.rates.swa
    end = clock.total_steps if swa is None or swa.lr is None else min(clock.total_steps, clock.steps(swa.start))
    tops = [Piece("schedule", recipe.schedule, 0, clock, end)]
    for place, phase in sorted(enumerate(recipe.phases), key=lambda numbered: clock.exact_steps(numbered[1].start)):
        if phase.set.schedule is not None:
            first = clock.steps(phase.start)
            own = Clock(clock.steps_per_epoch, clock.total_steps - first)
            tops.append(Piece(f"phases.{place}.set.schedule", phase.set.schedule, first, own, end))
    ends = [*(min(end, later.first) for later in tops[1:]), end]
    cut = [replace(piece, until=max(piece.first, until)) for piece, until in zip(tops, ends, strict=True)]
    return [plain for piece in cut for plain in _plain(piece)]


def _plain(piece: Piece) -> Iterator[Piece]:
    """The piece itself, or the parts of a sequence."""
    if not isinstance(piece.schedule, SequenceSettings):
        yield piece
        return
    first, clock = piece.first, piece.clock
    for number, part in enumerate(piece.schedule.parts):
        left = piece.first + clock.total_steps - first
        length = left if part.length is None else clock.steps(part.length)
        until = max(first, min(piece.until, first + length))
        key = f"{piece.key}.parts.{number}.schedule"
        yield from _plain(Piece(key, part.schedule, first, Clock(clock.steps_per_epoch, length), until))
        first += length


@dataclass(frozen=True)
class Drawn:
    """The rates of a run. unused: pieces that are never in force; pieces: all others, in order."""

    subject: Subject
    pieces: tuple[Piece, ...]
    unused: tuple[Piece, ...]

    @classmethod
    def of(cls, subject: Subject) -> "Drawn":
        """Draw the rates of a run whose schedules fit into it (`Rates.check`)."""
        found = pieces(subject)
        return cls(
            subject, tuple(piece for piece in found if piece.steps), tuple(piece for piece in found if not piece.steps)
        )

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """(step, rate) of all pieces, in order."""
        return [point for piece in self.pieces for point in piece.curve]

    @cached_property
    def peak(self) -> float:
        """The highest rate of the run; 0 if an SWA's own rate is in force from the first step on."""
        return max((lr for _, lr in self.curve), default=0.0)

    def before(self, step: int) -> float:
        """The highest rate before `step`; 0 at the start."""
        return max((lr for earlier, lr in self.curve if earlier < step), default=0.0)

    def when(self, step: int) -> str:
        """A step in words."""
        return f"step {step} (epoch {self.subject.clock.epoch(step):.3g})"
