"""Checks of the learning rate of a run, on the curve that it will really follow: through sequences, phases and SWA.

A schedule says what somebody meant; only the curve says what the optimizer will be told. Nothing is trained.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from groundup.optim import AdamWSettings, MuonSettings, SGDSettings
from groundup.optim.schedules import (
    ConstantSettings,
    CosineRestartsSettings,
    OneCycleSettings,
    PlateauSettings,
    RampSettings,
    TrapezoidSettings,
)
from groundup.optim.schedules.base import FallingSchedule, WarmedUpSchedule
from groundup.preflight.drawn import Drawn, Piece
from groundup.preflight.findings import Finding, Level, find
from groundup.preflight.schedule_codes import SCHEDULE_CODES
from groundup.preflight.subject import Subject
from groundup.training import NoAverage

__all__ = ["SCHEDULE_CODES", "check_schedule"]

_RATES: dict[type, tuple[float, float]] = {SGDSettings: (1e-3, 2.0), AdamWSettings: (1e-5, 0.02)}
_SHORT_CYCLES = 3
# A batch up to which the highest usual rate of SGD is a constant; beyond it the rate is scaled with the batch.
_LARGE_BATCH = 4096


def check_schedule(subject: Subject) -> list[Finding]:
    """What is wrong or unusual about the rates that this run will have."""
    drawn = Drawn.of(subject)
    if not drawn.pieces:
        return list(_unused(drawn))
    flat = list(_changes_nothing(drawn))
    checks = (_unreached, _short_cycles, _jumps, _rises_too_long, _idle_start, _momentum, _unusual, _unused)
    findings = [finding for check in checks for finding in check(drawn)] + flat
    return sorted(findings if flat else findings + list(_high_end(drawn)), key=lambda finding: finding.code)


def _unreached(drawn: Drawn) -> Iterator[Finding]:
    for piece in drawn.pieces:
        peak = piece.schedule.peak
        if piece.is_cut and piece.highest < 0.9 * peak and not isinstance(piece.schedule, RampSettings):
            saw = (
                f"{piece.key}: its rate of {peak:.3g} is never reached; at {drawn.when(piece.until)}, where something else takes "
                f"over, it has come to {piece.highest:.3g}"
            )
            yield find(SCHEDULE_CODES["GU101"], saw, _shorter_rise(piece, piece.steps // 2))
    for rise, after in pairwise(drawn.pieces):
        if _is_lost(drawn, rise):
            saw = (
                f"the rate rises to {rise.ends_with:.3g} up to {drawn.when(rise.until)} ({rise.key}); after that it is never above "
                f"{_highest_after(drawn, rise):.3g} ({after.key})"
            )
            yield find(SCHEDULE_CODES["GU101"], saw, f"{after.key}.{_rate_key(after)}={_goal(rise):.6g}")


def _is_lost(drawn: Drawn, rise: Piece) -> bool:
    """Whether nothing after a rise comes near to where it led."""
    return rise.is_rising_at_its_end and 0 < _highest_after(drawn, rise) < 0.5 * rise.ends_with


def _highest_after(drawn: Drawn, piece: Piece) -> float:
    return max((later.highest for later in drawn.pieces if later.first >= piece.until), default=0.0)


def _goal(rise: Piece) -> float:
    """Where a rise leads to: a ramp stops one step short of it."""
    return rise.ends_with if rise.is_cut else rise.schedule.peak


def _rate_key(piece: Piece) -> str:
    return "max_lr" if isinstance(piece.schedule, OneCycleSettings) else "lr"


def _shorter_rise(piece: Piece, steps: int) -> str:
    if isinstance(piece.schedule, OneCycleSettings) and steps:
        return f"{piece.key}.rise={steps}step"
    if isinstance(piece.schedule, WarmedUpSchedule) and steps:
        return f"{piece.key}.warmup={steps}step"
    return "let what takes over begin later"


def _short_cycles(drawn: Drawn) -> Iterator[Finding]:
    epoch = drawn.subject.clock.steps_per_epoch
    for piece in drawn.pieces:
        if not isinstance(piece.schedule, CosineRestartsSettings):
            continue
        count = _cycles_below(epoch, piece)
        if count >= _SHORT_CYCLES:
            period = piece.schedule.period
            saw = (
                f"{piece.key}.period={period}: {piece.clock.steps(period)} steps, an epoch has {epoch}; {count} cycles are "
                "shorter than an epoch"
            )
            yield find(SCHEDULE_CODES["GU102"], saw, _longer_period(piece, epoch))


def _cycles_below(epoch: int, piece: Piece) -> int:
    """How many cycles in force are shorter than an epoch."""
    assert isinstance(piece.schedule, CosineRestartsSettings)
    exact = float(max(1, piece.clock.steps(piece.schedule.period)))
    left, count = piece.steps - piece.warmup, 0
    if piece.schedule.growth == 1:
        return max(0, left // round(exact)) if exact < epoch else 0
    while exact < epoch and left >= exact:
        left, exact, count = left - round(exact), exact * piece.schedule.growth, count + 1
    return count


def _longer_period(piece: Piece, epoch: int) -> str:
    """The same number, in epochs, if the piece holds a cycle of it; else the piece is one cycle."""
    assert isinstance(piece.schedule, CosineRestartsSettings)
    period = piece.schedule.period
    fits = period.unit == "step" and period.value * epoch <= piece.steps - piece.warmup
    return f"{piece.key}.period={period.value:g}ep" if fits else f"{piece.key}.period={piece.steps - piece.warmup}step"


def _jumps(drawn: Drawn) -> Iterator[Finding]:
    for piece in drawn.pieces:
        yield from _jumps_inside(drawn, piece)
    for old, new in pairwise(drawn.pieces):
        before, after = old.ends_with, new.begins_with
        saw = f"from {before:.3g} to {after:.3g} in one step, at {drawn.when(new.first)}, where {new.key} takes over"
        if after > 2.01 * before and after - before > 0.1 * drawn.peak and drawn.before(new.first) < 0.5 * after:
            yield find(SCHEDULE_CODES["GU103"], saw, _longer_rise(new))
        elif before > 2.01 * after and not _is_lost(drawn, old):
            if old.is_rising_at_its_end:
                yield find(SCHEDULE_CODES["GU103"], saw, _no_second_rise(new))
            elif not old.is_flat_at_its_end and before - after > 0.02 * drawn.peak:
                key = "start_lr" if isinstance(new.schedule, RampSettings) else _rate_key(new)
                mend = f"{new.key}.{key}={before:.3g}"
                yield find(SCHEDULE_CODES["GU103"], saw, mend, "note")


def _jumps_inside(drawn: Drawn, piece: Piece) -> Iterator[Finding]:
    """Rises that take a step or two. Inside a plain schedule all other jumps are restarts and steps down."""
    first = piece.first
    for step in sorted({first, first + 1, first + piece.warmup - 1}):
        if not first <= step < piece.until - 1:
            continue
        before, after = piece.lr(step), piece.lr(step + 1)
        known = max(drawn.before(step), before)
        if after > 2.01 * before and after - before > 0.5 * drawn.peak and known < 0.5 * after:
            saw = f"from {before:.3g} to {after:.3g} in one step, at {drawn.when(step + 1)} ({piece.key})"
            yield find(SCHEDULE_CODES["GU103"], saw, _longer_rise(piece))


def _longer_rise(piece: Piece) -> str:
    if isinstance(piece.schedule, OneCycleSettings):
        return f"{piece.key}.rise=0.3dur"
    if isinstance(piece.schedule, WarmedUpSchedule):
        return f"{piece.key}.warmup=0.05dur"
    return "let it begin at the rate that it takes over"


def _no_second_rise(piece: Piece) -> str:
    has_warmup = isinstance(piece.schedule, WarmedUpSchedule) and piece.warmup
    return f"{piece.key}.warmup=0step" if has_warmup else "let it begin at the rate that it takes over"


def _rises_too_long(drawn: Drawn) -> Iterator[Finding]:
    total = drawn.subject.clock.total_steps
    step = next(step for step, lr in drawn.curve if lr >= (1 - 1e-6) * drawn.peak)
    if step > 0.5 * total:
        piece = next(piece for piece in drawn.pieces if piece.first <= step < piece.until)
        saw = f"the rate reaches its peak of {drawn.peak:.3g} at {drawn.when(step)} of {total} steps, {step / total:.0%} of the run"
        yield find(SCHEDULE_CODES["GU104"], saw, _early_rise(drawn, piece))


def _early_rise(drawn: Drawn, piece: Piece) -> str:
    """A shorter rise, where that would bring the peak into the first half."""
    half = 0.5 * drawn.subject.clock.total_steps
    if isinstance(piece.schedule, OneCycleSettings) and piece.first + 0.3 * piece.clock.total_steps < half:
        return f"{piece.key}.rise=0.3dur"
    if (
        isinstance(piece.schedule, WarmedUpSchedule)
        and piece.warmup
        and piece.first + 0.1 * piece.clock.total_steps < half
    ):
        return f"{piece.key}.warmup=0.1dur"
    return "let the highest rate come in the first half, and fall from there"


def _idle_start(drawn: Drawn) -> Iterator[Finding]:
    total = drawn.subject.clock.total_steps
    step = next(step for step, lr in drawn.curve if lr >= 0.01 * drawn.peak)
    if step > 0.01 * total:
        first = drawn.pieces[0]
        saw = (
            f"the rate begins with {first.begins_with:.3g} and is below {0.01 * drawn.peak:.3g}, a hundredth of its peak, "
            f"until {drawn.when(step)} of {total} steps"
        )
        is_cycle = isinstance(first.schedule, OneCycleSettings) and first.schedule.div_factor > 100
        yield find(SCHEDULE_CODES["GU105"], saw, f"{first.key}.div_factor=25" if is_cycle else "begin higher")


def _high_end(drawn: Drawn) -> Iterator[Finding]:
    last = drawn.pieces[-1]
    if _is_averaged(drawn.subject) or isinstance(last.schedule, PlateauSettings) or _means_to_fall(drawn, last):
        return
    peak = last.highest if isinstance(last.schedule, CosineRestartsSettings) else drawn.peak
    if last.ends_with > 0.05 * peak:
        saw = (
            f"the last step has a rate of {last.ends_with:.3g}, {last.ends_with / peak:.0%} of the highest ({last.key})"
        )
        yield find(SCHEDULE_CODES["GU106"], saw, _lower_end(last), _level_of_high_end(drawn, last))


def _is_averaged(subject: Subject) -> bool:
    """Whether the result is an average of weights, or an average has a rate of its own to the end."""
    has_rate = subject.rates.swa is not None and subject.rates.swa.lr is not None
    return has_rate or (
        not isinstance(subject.recipe.average, NoAverage) and subject.recipe.evaluate.weights != "model"
    )


def _means_to_fall(drawn: Drawn, last: Piece) -> bool:
    """Whether it falls to a low rate at its end: in a run of a few steps the last one is still well above it."""
    schedule = last.schedule
    if not isinstance(schedule, FallingSchedule) or isinstance(schedule, CosineRestartsSettings | TrapezoidSettings):
        return False
    return schedule.final_lr <= 0.05 * drawn.peak


def _level_of_high_end(drawn: Drawn, last: Piece) -> Level:
    """With a validation split a constant rate can be the baseline of a comparison; without one its result is the reported one."""
    if isinstance(last.schedule, ConstantSettings):
        return "note" if drawn.subject.recipe.data.validation else "warning"
    return "warning" if isinstance(last.schedule, CosineRestartsSettings) else "note"


def _lower_end(last: Piece) -> str:
    schedule = last.schedule
    if isinstance(schedule, CosineRestartsSettings):
        left, period = last.steps - last.warmup, max(1, last.clock.steps(schedule.period))
        if (
            schedule.growth == 1
            and not schedule.rebound
            and left / period < 20
            and schedule.final_lr < 0.05 * schedule.lr
        ):
            return f"{last.key}.period={math.ceil(left / max(1, round(left / period)))}step"
    elif isinstance(schedule, TrapezoidSettings) and last.clock.steps(schedule.cooldown) < 0.05 * last.steps:
        return f"{last.key}.cooldown=0.3dur"
    elif isinstance(schedule, FallingSchedule):
        return f"{last.key}.final_lr=0"
    elif not isinstance(schedule, ConstantSettings):
        return "let a part follow that falls to zero, such as `linear`"
    return f"'{last.key}={{name: cosine, lr: {schedule.peak:g}}}'"


def _momentum(drawn: Drawn) -> Iterator[Finding]:
    for piece in drawn.pieces:
        if not isinstance(piece.schedule, OneCycleSettings) or not piece.schedule.cycle_momentum:
            continue
        schedule, own = piece.schedule, _own_momentum(drawn.subject)
        saw = (
            f"{piece.key}.cycle_momentum: the momentum goes from {schedule.max_momentum:g} to {schedule.base_momentum:g} and "
            f"back; {own} is not used"
        )
        yield find(SCHEDULE_CODES["GU107"], saw, f"{piece.key}.cycle_momentum=false")


def _own_momentum(subject: Subject) -> str:
    optimizer = subject.recipe.optimizer
    if isinstance(optimizer, SGDSettings | MuonSettings):
        return f"optimizer.momentum={optimizer.momentum:g}"
    return f"the first of optimizer.betas, {optimizer.betas[0]:g},"


def _unusual(drawn: Drawn) -> Iterator[Finding]:
    recipe = drawn.subject.recipe
    usual = _RATES.get(type(recipe.optimizer))
    if usual is None or recipe.optimizer.sam is not None:
        return
    low, high = usual
    if isinstance(recipe.optimizer, SGDSettings):
        high *= max(1.0, recipe.train.batch_size / _LARGE_BATCH)
    piece = max(drawn.pieces, key=lambda piece: piece.highest)
    saw = f"{recipe.optimizer.name} at a rate of up to {drawn.peak:.3g} ({piece.key}); usual are"
    mend = f"{piece.key}.{_rate_key(piece)}={0.1 if isinstance(recipe.optimizer, SGDSettings) else 0.001:g}"
    if drawn.peak > high:
        yield find(SCHEDULE_CODES["GU108"], f"{saw} {high:g} at most", mend)
    elif drawn.peak < low:
        yield find(SCHEDULE_CODES["GU108"], f"{saw} {low:g} and more", mend, "note")


def _changes_nothing(drawn: Drawn) -> Iterator[Finding]:
    named = [piece for piece in drawn.pieces if not isinstance(piece.schedule, ConstantSettings)]
    swa = drawn.subject.rates.swa
    if not named or any(isinstance(piece.schedule, PlateauSettings) for piece in named) or (swa and swa.lr is not None):
        return
    # A warm-up alone is not what a schedule is chosen for.
    warmup = drawn.pieces[0].warmup
    rest = [lr for step, lr in drawn.curve if step >= warmup]
    if len(rest) > 2 and min(rest) > 0.99 * drawn.peak:
        since = drawn.when(warmup) if warmup else "the first step"
        saw = f"{named[0].key}.name={named[0].schedule.name}: the rate is {drawn.peak:.3g} from {since} to the last"
        yield find(SCHEDULE_CODES["GU109"], saw, _let_it_fall(named[0]))


def _let_it_fall(piece: Piece) -> str:
    if piece.schedule.name == "trapezoid":
        return f"{piece.key}.cooldown=0.3dur"
    if isinstance(piece.schedule, CosineRestartsSettings) and piece.schedule.final_lr < piece.schedule.lr:
        return f"{piece.key}.period=1dur"
    return (
        f"{piece.key}.final_lr=0" if isinstance(piece.schedule, FallingSchedule) else "make its steps larger or earlier"
    )


def _unused(drawn: Drawn) -> Iterator[Finding]:
    for piece in drawn.unused:
        swa = drawn.subject.rates.swa
        by = (
            "average.lr"
            if swa and swa.lr is not None and drawn.subject.clock.steps(swa.start) <= piece.first
            else "a phase"
        )
        saw = f"{piece.key} (name={piece.schedule.name}): {by} is in force from {drawn.when(piece.first)} on, where it would begin"
        yield find(SCHEDULE_CODES["GU110"], saw, "remove it, or let what replaces it begin later")
