"""The learning-rate range test: real training steps under a rate that rises exponentially, and what their losses say.

Step i of n uses lr_i = start * (end / start) ** (i / (n - 1)). With loss_i, the loss of its batch before the update,
    smoothed_i = sum over j <= i of beta^(i-j) loss_j / sum over j <= i of beta^(i-j)       (beta 0.8, bias-corrected)
    steepest   = the lr_i with the most negative slope of the smoothed loss against log lr, each slope that of a line through a
                 tenth of the points; between the first twentieth and the minimum, since what falls behind it fell from a
                 peak. None if the loss fell by less than it scatters from step to step
    tenth      = a tenth of the rate at which the smoothed loss came above 4 times its minimum or was not finite, which ends
                 the test. None if that never happened
The smoothed loss is up to beta / (1 - beta) = 4 steps late: a factor of 1.9 in the rate with the default range and steps, less
with more steps.

Everything else is the recipe's, as it is in its first step: augmentation, mixing, loss, optimizer with the multiples of its groups,
accumulation, clipping, precision, SAM where it is used from the start. The momentum is that of the schedule's highest rate.
Nothing is kept: the network is a new one, and no run folder is made.

Source   L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2015, arXiv 1506.01186), section 3.3.
Changed  an exponential ramp over `steps` updates and the training loss, in place of a linear ramp over epochs and the accuracy.
Hurts    the test sees the first updates only: warm-up, a long decay and late regularisation move the best rate. Networks with
         batch norm hardly diverge, so that a tenth of divergence can be too high: 0.5 for the recipe digits, which trains
         with 0.05. Small batches scatter: with 32 images per step the steepest fall of digits is found at 0.002, with 128 at
         0.03. What comes out is a starting point.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import StopRequest
from groundup.basis.pictures import lr_range_picture
from groundup.optim import LiveRates, Memory, Schedule
from groundup.optim.schedules import SequenceSettings
from groundup.preflight import refuse_lone_images
from groundup.recipe import Recipe
from groundup.runs.cost.batch_size import with_batch_size
from groundup.runs.prepare import (
    build_job,
    build_network,
    make_plan,
    open_data,
    subject_with,
    told_in_tenths,
    with_measured_constants,
)
from groundup.tracking import Tracker
from groundup.training import Job, LiveSchedule, Rates, TrainingState, choose_engine, train_step
from groundup.training.rates import Part

BETA = 0.8
LEAST_STEPS = 20
_DIVERGED = 4.0  # times the smallest smoothed loss so far
_REAL, _CLEAR = 5.0, 15.0  # standard errors that a loss has to fall by, to have fallen, and for the place to be sure
_RATE_KEYS = ("lr", "max_lr", "start_lr", "final_lr", "min_lr")  # what schedules call their rates, the highest first
_LOOKED_AT = 2000  # steps of a schedule at which its highest rate is looked for, at most


@dataclass(frozen=True)
class LRRange:
    """What a range test saw. `lrs`, `losses`, `smoothed`: one entry per step made, the diverging one included."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    tenth: float | None
    diverged_at: float | None

    @classmethod
    def of(cls, lrs: Sequence[float], losses: Sequence[float]) -> "LRRange":
        """The suggestions that these losses at these rates give."""
        smoothed = smooth(losses)
        diverged_at = lrs[-1] if has_diverged(smoothed) else None
        tenth = None if diverged_at is None else diverged_at / 10
        return cls(tuple(lrs), tuple(losses), tuple(smoothed), steepest_fall(lrs, losses), tenth, diverged_at)

    @property
    def lowest_at(self) -> float:
        """The rate at which the smoothed loss was lowest. Higher ones are too high, at least in the first steps."""
        known = [(loss, lr) for loss, lr in zip(self.smoothed, self.lrs, strict=True) if math.isfinite(loss)]
        return min(known)[1]

    def remarks(self) -> list[str]:
        """What a reader has to know about the suggestions, or about one that is missing."""
        said = []
        fall, error = fall_and_error(self.losses)
        if self.steepest is None:
            fix = "raise --to" if self.diverged_at is None else "lower --from"
            said.append(f"no steepest fall: the loss fell by no more than it scatters; {fix}, or take more --steps")
        elif fall < _CLEAR * error:
            said.append(
                f"the loss fell by {fall:.2g} and scatters much: the place of its steepest fall is uncertain; "
                "more --steps show it better"
            )
        if self.diverged_at is None:
            said.append(f"no divergence up to a rate of {self.lrs[-1]:.2g}; raise --to to look further")
        elif self.tenth is not None and self.tenth > self.lowest_at:
            said.append(
                f"one-tenth of divergence is above {self.lowest_at:.2g}, where the loss was lowest: probably too high here"
            )
        return said


def lr_find(
    recipe: Recipe,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    stop: StopRequest | None = None,
    tracker: Tracker | None = None,
) -> LRRange:
    """Train a new network of `recipe` for up to `steps` updates while the rate rises from `start` to `end`.

    `tracker` is told how it goes. `Interrupted` if `stop` says so; UsageError for a range that is none.
    """
    check_range(start, end, steps)
    stop, tracker = stop or StopRequest(), tracker or Tracker()
    splits = open_data(recipe, stop, told_in_tenths(tracker, recipe.data))
    recipe = with_batch_size(with_measured_constants(recipe, splits), splits, tracker.message, stop.check)
    plan = make_plan(recipe, splits)
    engine = choose_engine(recipe.train, steps)
    engine.activate()
    tracker.message(f"{engine.device}, {engine.threads} threads, {engine.why}")
    network = build_network(plan, engine)
    refuse_lone_images(subject_with(plan, network))
    # Images that are decoded ahead are cut for the step they are foreseen for: it too has to be as the first.
    plan = replace(plan, live=LiveSchedule(plan.live.at(0), ()))
    job, state = build_job(plan, engine, network, stop.check)
    try:
        return ramp(job, state, start=start, end=end, steps=steps, stop=stop, tracker=tracker)
    finally:
        job.data.close()


def check_range(start: float, end: float, steps: int) -> None:
    """UsageError if no range test can be made of this."""
    if not (0 < start < end and math.isfinite(end)):
        raise UsageError(
            f"--from {start:g} --to {end:g}: not a range of learning rates; allowed: 0 < from < to",
            hint="leave both out for 1e-6 to 10",
        )
    if steps < LEAST_STEPS:
        raise UsageError(f"--steps {steps}: too few to see a slope in; allowed: {LEAST_STEPS} or more")


def ramp(
    job: Job, state: TrainingState, *, start: float, end: float, steps: int, stop: StopRequest, tracker: Tracker
) -> LRRange:
    """The test on a job that nothing else will use: `state` is trained, and is no good afterwards."""
    job = _with_ramp(job, state, start, end, steps)
    state.average = None
    state.model.train()
    lrs = [job.rates.at(step).lr for step in range(steps)]
    losses: list[float] = []
    mean, lowest = RunningMean(), math.inf
    tracker.start({"total_steps": steps})
    for step, lr in enumerate(lrs):
        stop.check()
        losses.append(float(train_step(job, state)))
        smoothed = mean.add(losses[-1])
        tracker.step({"step": step + 1, "epoch": job.clock.epoch(step + 1), "lr": lr, "loss": losses[-1]})
        if not math.isfinite(losses[0]):
            raise GroundupError(
                f"the loss is {losses[0]} before the first update: no learning rate can help",
                hint="try train.precision=fp32, and look at the images and labels",
            )
        lowest = min(lowest, smoothed)
        if _is_divergence(smoothed, lowest):
            break
    return LRRange.of(lrs[: len(losses)], losses)


class ExponentialRamp(Schedule):
    """The schedule of the test: a straight line in log lr that ends with the last step."""

    name: Literal["exponential_ramp"] = Field("exponential_ramp", description="Exponential rise.")
    start_lr: float = Field(gt=0, description="Learning rate of the first step.")
    end_lr: float = Field(gt=0, description="Learning rate of the last step.")
    momentum: float | None = Field(None, description="Momentum of every step; null: the optimizer's own.")

    @property
    def peak(self) -> float:
        return self.end_lr

    def _rates(self, step: int, clock: Clock, memory: Memory) -> LiveRates:
        share = step / max(1, clock.total_steps - 1)
        return LiveRates(self.start_lr * (self.end_lr / self.start_lr) ** share, self.momentum)


def _with_ramp(job: Job, state: TrainingState, start: float, end: float, steps: int) -> Job:
    """The job with the ramp in place of its rates, and in everything else as it is in its first step."""
    looked_at = range(0, job.clock.total_steps, max(1, job.clock.total_steps // _LOOKED_AT))
    highest = max((job.rates.at(step, state.schedule) for step in looked_at), key=lambda rates: rates.lr)
    schedule = ExponentialRamp(name="exponential_ramp", start_lr=start, end_lr=end, momentum=highest.momentum)
    clock = Clock(job.clock.steps_per_epoch, steps)
    return replace(
        job,
        rates=Rates((Part(0, schedule, clock),), clock),
        live=LiveSchedule(job.live.at(0), ()),
        sam=job.sam if job.sam is not None and job.sam.is_due(0, job.clock) else None,
    )


class RunningMean:
    """An exponentially weighted mean, corrected for having begun at nothing."""

    def __init__(self) -> None:
        self._total = self._weight = 0.0

    def add(self, value: float) -> float:
        """The mean with `value` in it."""
        self._total = BETA * self._total + value
        self._weight = BETA * self._weight + 1
        return self._total / self._weight


def smooth(values: Sequence[float]) -> list[float]:
    """The running mean after each of `values`."""
    mean = RunningMean()
    return [mean.add(value) for value in values]


def has_diverged(smoothed: Sequence[float]) -> bool:
    """Whether the last of these smoothed losses is a divergence."""
    return _is_divergence(smoothed[-1], min(smoothed))


def _is_divergence(smoothed: float, lowest: float) -> bool:
    return not (math.isfinite(smoothed) and smoothed <= _DIVERGED * lowest)


def steepest_fall(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss falls fastest against log lr before its minimum; None if it did not really fall."""
    known = _finite(losses)  # only the last one may be missing
    half = _half(len(known))
    x, y = np.log(lrs[half : len(known)]), np.array(smooth(known)[half:])
    fall, error = fall_and_error(losses)
    if len(x) < 2 * half + 1 or fall <= _REAL * error:
        return None
    last = min(max(int(y.argmin()), half), len(x) - half - 1)
    slopes = [_slope(x[at - half : at + half + 1], y[at - half : at + half + 1]) for at in range(half, last + 1)]
    return lrs[2 * half + int(np.argmin(slopes))]


def fall_and_error(losses: Sequence[float]) -> tuple[float, float]:
    """From the first tenth of the losses to the lowest tenth in a row: how far their mean fell, and the standard error of a mean.

    The error is from the steps between neighbours, so that neither the course of the losses nor a few wild ones count.
    """
    known = _finite(losses)
    width = 2 * _half(len(known)) + 1
    if len(known) < width:
        return 0.0, math.inf
    means = np.convolve(known, np.full(width, 1 / width), "valid")
    scatter = float(np.median(np.abs(np.diff(known)))) / (0.6745 * math.sqrt(2))
    return float(means[0] - means.min()), scatter / math.sqrt(width)


def _finite(losses: Sequence[float]) -> list[float]:
    return [loss for loss in losses if math.isfinite(loss)]


def _half(count: int) -> int:
    """A twentieth of the points: what is ignored at the start, and half of what a slope is measured on."""
    return max(2, round(count / 20))


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Of the least-squares line through the points."""
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


@dataclass(frozen=True)
class RateKeys:
    """Where a recipe keeps its learning rates: `key` holds the highest, None if several do; `others`: the other ones."""

    key: str | None
    others: dict[str, float]

    @classmethod
    def of(cls, recipe: Recipe) -> "RateKeys":
        """Of the schedule, the parts of a sequence, and schedules that phases set."""
        found = dict(_rate_keys(recipe.schedule, "schedule"))
        for place, phase in enumerate(recipe.phases):
            if phase.set.schedule is not None:
                found |= dict(_rate_keys(phase.set.schedule, f"phases.{place}.set.schedule"))
        peak = max(found.values())
        highest = [key for key, rate in found.items() if rate == peak]
        single = highest[0] if len(highest) == 1 else None
        return cls(single, {key: rate for key, rate in found.items() if key != single})

    def override(self, lr: float | None) -> str | None:
        """What to add to the command line so that the highest rate of the run is `lr`, to two digits; None if one key cannot."""
        if self.key is None or lr is None or any(rate > float(f"{lr:.2g}") for rate in self.others.values()):
            return None
        return f"{self.key}={lr:.2g}"

    def remarks(self, suggestions: Sequence[float | None]) -> list[str]:
        """What one override cannot do, or not for these suggestions."""
        others = ", ".join(f"{key}={rate:g}" for key, rate in self.others.items())
        if self.key is None:
            return [f"no single key holds the highest rate; set these together: {others}"]
        below = [f"{lr:.2g}" for lr in suggestions if lr is not None and self.override(lr) is None]
        said = [f"{self.key} alone cannot bring the highest rate down to {' or '.join(below)}"] if below else []
        return [*said, f"other rates of the recipe stay as they are: {others}"] if others else said


def _rate_keys(schedule: Schedule, key: str) -> Iterator[tuple[str, float]]:
    """The keys at and below `key` that hold a rate of a schedule, with that rate; zeros are left out."""
    if isinstance(schedule, SequenceSettings):
        for number, part in enumerate(schedule.parts):
            yield from _rate_keys(part.schedule, f"{key}.parts.{number}.schedule")
    for name in _RATE_KEYS:
        if rate := getattr(schedule, name, None):
            yield f"{key}.{name}", rate


def report(recipe: Recipe, found: LRRange) -> dict[str, Any]:
    """The result as plain values; losses that are not finite are None, as JSON wants it."""
    keys = RateKeys.of(recipe)
    return {
        "recipe": recipe.name,
        "steepest": found.steepest,
        "one_tenth_of_divergence": found.tenth,
        "diverged_at": found.diverged_at,
        "lowest_at": found.lowest_at,
        "override": keys.override(found.steepest or found.tenth),
        "overrides": {
            "steepest": keys.override(found.steepest),
            "one_tenth_of_divergence": keys.override(found.tenth),
        },
        "remarks": [*found.remarks(), *keys.remarks([found.steepest, found.tenth])],
        "beta": BETA,
        "lrs": list(found.lrs),
        "losses": [_plain(loss) for loss in found.losses],
        "smoothed": [_plain(loss) for loss in found.smoothed],
    }


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def check_picture(path: Path) -> None:
    """UsageError if no PNG can be written there; better said before the steps than after."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: the picture is a PNG; allowed: a name that ends in .png")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}", hint="make it first, or leave --out out")


def draw(found: LRRange, path: Path, title: str, check: Callable[[], None] = lambda: None) -> Path:
    """Draw the test. Returns where: `path`, or a numbered name beside it where that exists. If `check` raises nothing stays."""
    place = _new_file(path)
    try:
        lr_range_picture(
            found.lrs,
            found.losses,
            found.smoothed,
            place,
            title,
            beta=BETA,
            steepest=found.steepest,
            tenth=found.tenth,
            diverged_at=found.diverged_at,
        )
        check()
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    return place


def _new_file(path: Path) -> Path:
    """An empty file that was not there before, at `path` or at `path` with a number, so that no other process takes the name."""
    number = 1
    while True:
        place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            place.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return place
