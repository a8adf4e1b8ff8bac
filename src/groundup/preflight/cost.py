"""What a run costs before it has begun: FLOP, seconds, memory, disk and money, from counted work and measured seconds; and which
of these costs is probably a mistake.

Counted: training is 3 x the forward pass of every image of every step, twice in steps that use SAM, at the input size of the
step (as in summary.json); evaluation is one forward pass of every image that is looked at. Measured elsewhere: the seconds of a
step per input size, and what a step keeps in memory. FLOP are of float32 multiply-adds counted as 2; sizes in bytes, times in
seconds. Evaluation is priced at the speed per FLOP of the training steps.
"""

import math
from dataclasses import dataclass

from groundup.basis.duration import Clock
from groundup.optim import SAMSettings
from groundup.preflight.findings import Code, Finding, find
from groundup.training import LiveSchedule

DAY, HOUR = 86_400.0, 3_600.0
_BETWEEN_CHECKPOINTS = 1_800.0  # seconds of work that a kill may cost, in what is suggested
_EVALUATION_SHARE = 0.1  # of the training time, in what is suggested

SLOW = Code(
    "GU601",
    "warning",
    "The run takes more than a day on this CPU",
    "Convolutions run some hundred times slower on a CPU than on a GPU. A run of days on a CPU is rarely what was meant, "
    "and a mistake in it is found out late.",
    "Run it on a machine with a GPU, or make it smaller: fewer epochs, a narrower network, a lower train.resolution.",
)
RARE_CHECKPOINTS = Code(
    "GU602",
    "warning",
    "More than an hour of training lies between two checkpoints",
    "Whatever kills the run throws it back to its last checkpoint, and the work since then is done again.",
    "Save more often: checkpoint.every.",
)
COSTLY_EVALUATION = Code(
    "GU603",
    "warning",
    "Evaluating costs more than training",
    "Every evaluation is a pass over the split that selects, two if there is an average. Where an epoch is small or evaluations "
    "are frequent they take most of the time and change nothing in the result.",
    "Evaluate more rarely: evaluate.every.",
)
NO_DISK = Code(
    "GU604",
    "error",
    "The checkpoints need more disk than is free",
    "A full disk ends the run at the first checkpoint that does not fit. A checkpoint holds the weights, what the optimizer keeps "
    "for each of them, and their average.",
    "Keep fewer checkpoints (checkpoint.keep, checkpoint.keep_every), free some space, or write to another disk with --run.",
)
NO_MEMORY = Code(
    "GU605",
    "error",
    "The run needs more memory than there is",
    "Most of the memory of a training step holds the activations that the backward pass needs, and grows with the images in one "
    "forward pass. A run that does not fit ends in its first step, or swaps and crawls.",
    "Accumulate gradients over smaller pieces (train.micro_batch; batch norm then sees one piece at a time), or keep the pixels "
    "on disk (data.cache=disk).",
)

COST_CODES: dict[str, Code] = {
    code.number: code for code in (SLOW, RARE_CHECKPOINTS, COSTLY_EVALUATION, NO_DISK, NO_MEMORY)
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step: `fixed` whatever the batch, by what they are for; `per_image` in one forward pass of `images`."""

    fixed: dict[str, int]
    per_image: int
    images: int
    free: int
    total: int

    @property
    def needed(self) -> int:
        """All of it."""
        return sum(self.fixed.values()) + self.per_image * self.images


@dataclass(frozen=True)
class Disk:
    """Bytes of one checkpoint, how many lie on the disk at once at most, and what is free there."""

    checkpoint: int
    kept: int
    free: int

    @property
    def needed(self) -> int:
        """All of them."""
        return self.checkpoint * self.kept


@dataclass(frozen=True)
class Cost:
    """What a run takes. `step_seconds`: of a plain step, by input size in px; `seconds`: of all training steps; `how`: in words,
    how the seconds were found; `checkpoint_steps`, `evaluate_steps`: between two of them; `per_hour`: price of an hour, or None.
    """

    device: str
    clock: Clock
    train_flops: float
    evaluation_flops: float
    step_seconds: dict[int, float]
    seconds: float
    evaluation_seconds: float
    checkpoint_steps: int
    evaluate_steps: int
    memory: Memory
    disk: Disk
    how: str
    per_hour: float | None = None

    @property
    def total_seconds(self) -> float:
        """Training and evaluation."""
        return self.seconds + self.evaluation_seconds

    @property
    def price(self) -> float | None:
        """Of the whole run, in the currency of `per_hour`."""
        return None if self.per_hour is None else self.per_hour * self.total_seconds / HOUR


def check_cost(cost: Cost) -> list[Finding]:
    """What is too dear, and what would make it cheaper."""
    return [
        *_time(cost),
        *_checkpoints(cost),
        *_evaluation(cost),
        *_disk(cost.disk),
        *_memory(cost),
    ]


def _time(cost: Cost) -> list[Finding]:
    if cost.device != "cpu" or cost.total_seconds <= DAY:
        return []
    saw = f"about {readable_time(cost.total_seconds)} on the CPU for {cost.train_flops / 1e15:.3g} PFLOP of training"
    epochs = cost.clock.total_steps / cost.clock.steps_per_epoch * DAY / cost.total_seconds
    return [find(SLOW, saw, f"a GPU; or fewer epochs: {epochs:.2g} take a day here")]


def _checkpoints(cost: Cost) -> list[Finding]:
    if not cost.clock.total_steps:
        return []
    step = cost.seconds / cost.clock.total_steps
    between = step * min(cost.checkpoint_steps, cost.clock.total_steps)
    if between <= HOUR:
        return []
    saw = f"{readable_time(between)} of training between two checkpoints"
    mend = f"checkpoint.every={_as_duration(_BETWEEN_CHECKPOINTS / step, cost.clock)}"
    return [find(RARE_CHECKPOINTS, saw, mend)]


def _evaluation(cost: Cost) -> list[Finding]:
    if cost.evaluation_seconds <= cost.seconds:
        return []
    saw = f"evaluation takes {readable_time(cost.evaluation_seconds)}, training {readable_time(cost.seconds)}"
    rarer = cost.evaluate_steps * cost.evaluation_seconds / (_EVALUATION_SHARE * cost.seconds)
    return [find(COSTLY_EVALUATION, saw, f"evaluate.every={_as_duration(rarer, cost.clock)}")]


def _disk(disk: Disk) -> list[Finding]:
    if disk.needed <= disk.free:
        return []
    saw = f"{disk.kept} checkpoints of {readable_bytes(disk.checkpoint)} each; {readable_bytes(disk.free)} are free"
    # Two are the least, and one more while it is being written.
    fits = 3 * disk.checkpoint <= disk.free and disk.kept > 3
    mend = "checkpoint.keep=2 checkpoint.keep_every=null" if fits else f"free {readable_bytes(disk.needed - disk.free)}"
    return [find(NO_DISK, saw, mend)]


def _memory(cost: Cost) -> list[Finding]:
    memory = cost.memory
    if memory.needed <= memory.free:
        return []
    hopeless = memory.needed > memory.total
    limit = f"{readable_bytes(memory.total)} in all" if hopeless else f"{readable_bytes(memory.free)} are free just now"
    saw = (
        f"about {readable_bytes(memory.needed)} with {memory.images} images in one forward pass "
        f"({readable_bytes(memory.per_image)} each); {cost.device} has {limit}"
    )
    room = memory.free - sum(memory.fixed.values())
    fitting = _round_down(room / memory.per_image) if memory.per_image and room > 0 else 0
    mend = f"train.micro_batch={fitting}" if 0 < fitting < memory.images else "data.cache=disk, or a smaller network"
    return [find(NO_MEMORY, saw, mend, "error" if hopeless else "warning")]


def _round_down(count: float) -> int:
    """A multiple of 64 (which mixing needs), or a power of two below that."""
    whole = int(count)
    if whole >= 64:
        return whole // 64 * 64
    return 0 if whole < 1 else 2 ** int(math.log2(whole))


def _as_duration(steps: float, clock: Clock) -> str:
    """About so many steps, in whole epochs where that is one or more; at most the run."""
    if steps >= clock.total_steps:
        return "1dur"
    epochs = int(steps / clock.steps_per_epoch)
    return f"{epochs}ep" if epochs else f"{max(1, int(steps))}step"


def steps_by_size(live: LiveSchedule, clock: Clock, sam: SAMSettings | None) -> dict[int, tuple[int, int]]:
    """How many steps are made with each input size in px, and how many of these with SAM."""
    firsts = sorted({0, *(first for first, _ in live.changes)})
    counts: dict[int, tuple[int, int]] = {}
    for first, end in zip(firsts, [*firsts[1:], clock.total_steps], strict=True):
        size = live.at(first).resolution
        steps, twice = counts.get(size, (0, 0))
        counts[size] = steps + end - first, twice + (_sam_steps(sam, clock, first, end) if sam else 0)
    return counts


def _sam_steps(sam: SAMSettings, clock: Clock, first: int, end: int) -> int:
    start, every = clock.steps(sam.start), clock.steps(sam.every)

    def before(step: int) -> int:
        return max(0, -((start - step) // every)) if step > start else 0

    return before(end) - before(first)


def train_flops(sizes: dict[int, tuple[int, int]], forward: dict[int, int], images: float) -> float:
    """FLOP of the training steps. forward: of one image per input size; images: per step, on average."""
    return sum(3 * forward[size] * (steps + twice) * images for size, (steps, twice) in sizes.items())


def evaluated_images(lines: int, selecting: int, test: int, *, averaged: bool, norm_images: int) -> int:
    """Forward passes of evaluation: `lines` times the split that selects (`selecting` images; 0: there is none), for the average
    too, whose batch norms look at `norm_images`; and at the end the test split and, once, the norms of an average."""
    each = selecting * (2 if averaged else 1) + (norm_images if averaged else 0)
    return (lines * each if selecting else norm_images * averaged) + test


def readable_time(seconds: float) -> str:
    """Such as `48 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for limit, unit, name in ((120, 1, "s"), (2 * HOUR, 60, "min"), (2 * DAY, HOUR, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / DAY:,.1f} days"


def readable_bytes(count: float) -> str:
    """Such as `3.2 MB`, `12 GB`: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
