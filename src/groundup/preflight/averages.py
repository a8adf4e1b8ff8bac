"""Checks of what a run reports: the average of the weights, when the run may stop, and what the result is chosen on."""

import math
from collections.abc import Iterator

import numpy as np

from groundup.basis.duration import Clock
from groundup.optim.schedules import CosineRestartsSettings
from groundup.preflight.drawn import Drawn
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.subject import Subject
from groundup.preflight.times import longest_wait, plateaus, steps_between_evaluations
from groundup.training import EMASettings, NoAverage, SWASettings

AVERAGE_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU501",
            "error",
            "The reported accuracy is chosen on test",
            "The test split picks the best step, stops the run or steers the learning rate, and the accuracy is "
            "then reported on the same images: it is the luckiest of many looks, not what the model does on new "
            "images, and it gets better the more often one looks. Runs that look at different times cannot be "
            "compared with one another.",
            "Hold images back for validation, choose on those, and read the test split once, at the end.",
            ("000, bug 4", "001, bug 1", "002, bug 2", "003, bug 4", "004"),
        ),
        Code(
            "GU502",
            "note",
            "The test split is evaluated during the run",
            "Nothing in the recipe chooses on it, so the reported accuracy stands. But whoever watches the curve "
            "and starts the next run with other settings chooses on it after all.",
            "Hold images back for validation, or evaluate the test split at the end alone.",
        ),
        Code(
            "GU503",
            "warning",
            "Early stopping can never act",
            "No evaluation before the end of the run comes as long after the first one as the patience is, so that early "
            "stopping does nothing. As a rule it has been counted in another unit than was meant.",
            "A patience of a tenth to a fifth of the run, or none.",
        ),
        Code(
            "GU504",
            "warning",
            "A single evaluation without a gain is acted upon",
            "The patience is not longer than the time between two evaluations. The accuracy goes up and down by "
            "chance from one evaluation to the next, so that the first such dip ends the run, or lowers the "
            "learning rate for good.",
            "A patience of several evaluations, or evaluate more often.",
        ),
        Code(
            "GU505",
            "warning",
            "Early stopping has less patience than a cycle of the learning rate",
            "After a restart the accuracy falls, and comes back only when the cycle ends. Early stopping takes the "
            "fall for the end of progress, and the run stops in the middle of a cycle, at a high rate, where the "
            "model is worst.",
            "A patience longer than the longest cycle, or no early stopping.",
            ("000, session 02",),
        ),
        Code(
            "GU506",
            "note",
            "The best of very few evaluations",
            "The best step is to be reported, and there are so few evaluations that it can hardly be another than "
            "the last.",
            "Evaluate more often, or report the last step.",
        ),
        Code(
            "GU511",
            "warning",
            "The average remembers the first half of the run",
            "An exponential average forgets at the pace of its horizon. Without a warm-up of its decay, one that is "
            "long against the run still holds weights that had hardly learned anything, and is worse than the model "
            "itself: nothing fails, the average merely looks useless. It happens when a decay that suits a long run "
            "is taken over into a short one.",
            "A horizon that is a share of the run, such as 0.05dur, so that it shrinks with the run; and "
            "average.warmup=true.",
            ("004, bug 1",),
        ),
        Code(
            "GU512",
            "note",
            "The average is hardly an average",
            "Fewer than five samples carry nearly all of its weight, so that it is about the last weights, and "
            "costs memory and time for nothing.",
            "A longer horizon, or samples more often.",
        ),
        Code(
            "GU513",
            "warning",
            "The average begins when the learning rate is nearly zero",
            "Weights that hardly move are all the same: their mean is each of them. What an average gains, it gains "
            "from weights taken at a rate that still moves them.",
            "Begin earlier, or (SWA) set a constant rate for the time of the average.",
        ),
        Code(
            "GU514",
            "warning",
            "The learning rate goes up where the average begins",
            "The weights are sampled at more than twice the rate that the schedule had come down to. The model gets "
            "worse at once, for it leaves the place that it had settled in; the average makes up for it only after "
            "many samples. Seen for the first time it looks like divergence or a bug of the average, and it is "
            "neither.",
            "A rate for the average that is not above the schedule's where it begins, or an earlier begin.",
            ("004, bug 4",),
        ),
        Code(
            "GU515",
            "note",
            "The schedule is cut off by the average's own rate",
            "From its start on the average has a rate of its own, while the schedule is laid out for the whole run: "
            "it is cut off while still falling, and its final rate is never reached. That is how SWA is meant to "
            "work where the two rates fit; here they differ by more than a factor of two.",
            "A rate for the average near that of the schedule where it begins, or a sequence whose first part ends "
            "there.",
            ("004, bug 9",),
        ),
    )
}

_FEW_EVALUATIONS = 3
_FEW_SAMPLES = 5.0


def check_averages(subject: Subject) -> list[Finding]:
    """What is wrong or unusual about averaging, stopping and selection in this run."""
    checks = (_selection, _stopping, _impatience, _best, _averaging)
    return sorted((finding for check in checks for finding in check(subject)), key=lambda finding: finding.code)


def _selection(subject: Subject) -> Iterator[Finding]:
    recipe = subject.recipe
    if not recipe.evaluate.optimistic:
        return
    choices = ["evaluate.model=best"] if recipe.evaluate.model == "best" else []
    choices += [f"{key}={metric}" for key, metric in recipe.stop.metrics.items() if "validation" in metric]
    choices += [f"schedule.metric={metric}" for metric in subject.rates.metrics_needed if "validation" in metric]
    if choices:
        saw = f"evaluate.optimistic=true, and what is measured on test decides: {', '.join(choices)}"
        yield find(AVERAGE_CODES["GU501"], saw, "evaluate.optimistic=false data.validation=0.1")
    else:
        saw = "evaluate.optimistic=true: every evaluation reads the test split; nothing in the recipe chooses on it"
        yield find(AVERAGE_CODES["GU502"], saw, "evaluate.optimistic=false")


def _stopping(subject: Subject) -> Iterator[Finding]:
    early, clock = subject.recipe.stop.early, subject.clock
    if early is None:
        return
    patience = clock.steps(early.patience)
    told = f"stop.early.patience={early.patience}: {patience} steps"
    if not _can_stop(subject, patience):
        saw = (
            f"{told}; the run has {clock.total_steps}, and evaluate.every={subject.recipe.evaluate.every} leaves "
            f"{longest_wait(subject, 0, clock.total_steps)} between the first evaluation and the last before its end"
        )
        yield find(AVERAGE_CODES["GU503"], saw, "stop.early=null")
    elif (cycle := _longest_cycle(subject)) > patience:
        saw = f"{told}; the rate takes {cycle} steps from one restart to the next"
        longer = math.ceil(clock.epoch(cycle)) + 1
        acts = _can_stop(subject, longer * clock.steps_per_epoch)
        mend = f"stop.early.patience={longer}ep" if acts else "stop.early=null"
        yield find(AVERAGE_CODES["GU505"], saw, mend)


def _can_stop(subject: Subject, patience: int) -> bool:
    """Whether some evaluation before the last step comes `patience` steps or more after the first one."""
    return 0 < longest_wait(subject, 0, subject.clock.total_steps) >= patience


def _longest_cycle(subject: Subject) -> int:
    """Steps of the longest whole cycle of restarts, of an epoch or more, that another one follows; 0: none does."""
    longest = 0
    for piece in Drawn.of(subject).pieces:
        if isinstance(piece.schedule, CosineRestartsSettings):
            cycle = max(1, piece.clock.steps(piece.schedule.period)) * (2 if piece.schedule.rebound else 1)
            left = piece.steps - piece.warmup
            while cycle < left:
                longest = max(longest, cycle)
                # Cycles of one length need no count.
                left = left - cycle if piece.schedule.growth > 1 else 0
                cycle = round(cycle * piece.schedule.growth)
    return longest if longest >= subject.clock.steps_per_epoch else 0


def _impatience(subject: Subject) -> Iterator[Finding]:
    early, clock, every = subject.recipe.stop.early, subject.clock, steps_between_evaluations(subject)
    told = f"an evaluation comes every {every} steps (evaluate.every={subject.recipe.evaluate.every})"
    if early is not None and clock.steps(early.patience) <= every and _can_stop(subject, clock.steps(early.patience)):
        saw = f"stop.early.patience={early.patience}: {clock.steps(early.patience)} steps; {told}"
        fits = 6 * every < clock.total_steps
        yield find(AVERAGE_CODES["GU504"], saw, f"stop.early.patience={5 * every}step" if fits else "stop.early=null")
    for piece, schedule, patience, acts in plateaus(subject):
        # A plateau acts when its patience is exceeded, early stopping when it is reached.
        if acts and patience < every:
            saw = f"{piece.key}.patience={schedule.patience}: {patience} steps; {told}"
            fits = 3 * every < piece.clock.total_steps - piece.warmup
            mend = f"{piece.key}.patience={3 * every}step" if fits else "evaluate more often"
            yield find(AVERAGE_CODES["GU504"], saw, mend)


def _best(subject: Subject) -> Iterator[Finding]:
    count = -(-subject.clock.total_steps // steps_between_evaluations(subject))
    if subject.recipe.evaluate.model == "best" and count < _FEW_EVALUATIONS:
        saw = f"evaluate.model=best, evaluate.every={subject.recipe.evaluate.every}: {count} evaluation{'s' if count > 1 else ''}"
        yield find(AVERAGE_CODES["GU506"], saw, "evaluate.every=0.1dur")


def _averaging(subject: Subject) -> Iterator[Finding]:
    average = subject.recipe.average
    if isinstance(average, NoAverage):
        return
    if isinstance(average, EMASettings):
        yield from _memory(average, subject.clock)
    yield from _rates_of_samples(average, subject)


def _memory(ema: EMASettings, clock: Clock) -> Iterator[Finding]:
    updates, shares = shares_at_the_end(ema, clock)
    early, first = float(shares[updates < clock.total_steps / 2].sum()), float(shares[0])
    told = f"average.horizon={ema.horizon}: {clock.steps(ema.horizon)} steps in a run of {clock.total_steps}"
    if early > 0.1:
        saw = f"{told}; at the end {early:.0%} of the average is from the first half of the run, {first:.1%} from its first sample"
        yield find(AVERAGE_CODES["GU511"], saw, "average.horizon=0.05dur")
    elif (carriers := 1 / float((shares**2).sum())) < _FEW_SAMPLES:
        saw = f"{told}, sampled every {max(1, clock.steps(ema.every))}; at the end it is worth {carriers:.2g} samples"
        yield find(AVERAGE_CODES["GU512"], saw, "average.horizon=0.05dur average.every=0.002dur")


def shares_at_the_end(ema: EMASettings, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """(updates, shares): after how many updates each sample is taken, int64 (N,), and its share in the average at the end of
    the run, float64 (N,); the shares sum to 1."""
    every = max(1, clock.steps(ema.every))
    first = ema.first_sample(clock) or every  # nothing is sampled before the first update
    updates = np.arange(first, clock.total_steps + 1, every, dtype=np.int64)
    count = np.arange(1, len(updates), dtype=np.float64)  # samples before each one but the first
    decay = np.full(len(count), math.exp(-every / max(1, clock.steps(ema.horizon))))
    if ema.warmup:
        decay = np.minimum(decay, (1 + count) / (10 + count))
    kept = np.concatenate([np.cumprod(decay[::-1])[::-1], [1.0]])
    return updates, kept * np.concatenate([[1.0], 1 - decay])


def _rates_of_samples(average: EMASettings | SWASettings, subject: Subject) -> Iterator[Finding]:
    clock, rates = subject.clock, subject.rates
    drawn = Drawn.of(subject)
    peak = max(drawn.peak, rates.swa.lr or 0.0 if rates.swa else 0.0)
    first, every = average.first_sample(clock), max(1, clock.steps(average.every))
    sampled = range(first or every, clock.total_steps + 1, every)
    # Update number s - 1 made the weights that are sampled after s updates.
    some = sorted({sampled[len(sampled) * point // 100] for point in range(100)} | {sampled[-1]})
    highest = max(rates.at(step - 1).lr for step in some)
    told = f"average.start={average.start}: samples from {drawn.when(some[0])} on"
    if highest < 0.01 * peak:
        saw = f"{told}, at a rate of {highest:.3g} and less; the peak is {peak:.3g}"
        yield find(AVERAGE_CODES["GU513"], saw, _where_it_moves(average, subject, peak))
    start = clock.steps(average.start)
    if isinstance(average, SWASettings) and start:
        yield from _raised(average, subject, highest)
    if isinstance(average, SWASettings) and average.lr is not None and drawn.pieces:
        yield from _cut_off(average, drawn)


def _where_it_moves(average: EMASettings | SWASettings, subject: Subject, peak: float) -> str:
    """A start at which the rate still moves the weights, or a rate that does."""
    clock = subject.clock
    earlier = round(0.7 * clock.total_steps)
    if clock.steps(average.start) > earlier and subject.rates.at(max(0, earlier - 1)).lr > 0.05 * peak:
        return "average.start=0.7dur"
    return f"average.lr={0.1 * peak:.2g}" if isinstance(average, SWASettings) else "let the average begin earlier"


def _raised(swa: SWASettings, subject: Subject, highest: float) -> Iterator[Finding]:
    start = subject.clock.steps(swa.start)
    before = subject.rates.at(start - 1).lr
    if highest > 2 * before:
        saw = f"average.start={swa.start}: the rate has come down to {before:.3g} there; samples are taken at up to {highest:.3g}"
        mend = f"average.lr={before:.2g}" if before else "let the average begin earlier"
        yield find(AVERAGE_CODES["GU514"], saw, mend)


def _cut_off(swa: SWASettings, drawn: Drawn) -> Iterator[Finding]:
    last = drawn.pieces[-1]
    end = last.first + last.clock.total_steps - 1
    fits = swa.lr is not None and 0.5 * last.ends_with < swa.lr < 2 * last.ends_with
    if last.is_cut and last.lr(end) < 0.5 * last.ends_with and not fits:
        saw = (
            f"average.lr={swa.lr:g} is in force from {drawn.when(last.until)} on, where {last.key} has come to "
            f"{last.ends_with:.3g}; its end would be {last.lr(end):.3g}"
        )
        yield find(AVERAGE_CODES["GU515"], saw, f"average.lr={last.ends_with:.2g}")
