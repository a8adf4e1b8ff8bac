"""Checks of when things happen: what is too rare, too slow or too late to happen at all, and phases that change nothing."""

from collections.abc import Iterator

from groundup.basis.duration import Duration
from groundup.optim.schedules import PlateauSettings
from groundup.preflight.drawn import Drawn, Piece
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.subject import Subject
from groundup.training import Phase

TIME_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU507",
            "warning",
            "An interval is longer than the run",
            "What is to be done again and again is done once, at the end: a run that is evaluated only there has no curve and "
            "nothing to choose from, and of the checkpoints that were to be kept for good there is the last alone. As a rule "
            "the interval has been taken over from a longer run.",
            "An interval that fits several times into the run. If the end alone is meant, write 1dur.",
        ),
        Code(
            "GU508",
            "warning",
            "A plateau can never act",
            "The rate falls at an evaluation that comes more than the patience after the first one, and before the schedule "
            "ends. There is none, so that the rate stays as it is, whatever the metric does. As a rule the evaluations are too "
            "rare, or the patience has been counted in another unit than was meant.",
            "A patience of several evaluations and a tenth of the run, and evaluations that are frequent enough for it.",
        ),
        Code(
            "GU509",
            "warning",
            "A phase changes nothing",
            "Every value that the phase sets is in force already where it begins, or is replaced in the same step: a short run "
            "rounds points that lie close together to one step. What somebody changes there, or concludes from it, "
            "means nothing.",
            "Remove the phase, or give it the values that were meant.",
        ),
    )
}


def check_times(subject: Subject) -> list[Finding]:
    """What of this run will never happen though the recipe asks for it."""
    return [*_rare(subject), *_idle_plateaus(subject), *_idle_phases(subject)]


def steps_between_evaluations(subject: Subject) -> int:
    """Steps from one evaluation to the next, at least 1."""
    return max(1, subject.clock.steps(subject.recipe.evaluate.every))


def longest_wait(subject: Subject, first: int, until: int, counts_from: int = 0) -> int:
    """Steps from the first evaluation in [first, until), or from step `counts_from` if that is later, to the last one there: what a
    patience has to be held against, since the first evaluation only sets what the others are compared with. 0 if there are fewer
    than two."""
    every = steps_between_evaluations(subject)
    earliest, latest = max(1, -(-first // every)) * every, (until - 1) // every * every
    return max(0, latest - max(earliest, counts_from)) if latest > earliest else 0


def plateaus(subject: Subject) -> Iterator[tuple[Piece, PlateauSettings, int, bool]]:
    """Every plateau in force: where it stands, its settings, its patience in steps, and whether it can ever act."""
    for piece in Drawn.of(subject).pieces:
        if isinstance(piece.schedule, PlateauSettings):
            patience = piece.clock.steps(piece.schedule.patience)
            wait = longest_wait(subject, piece.first, piece.until, piece.first + piece.warmup)
            yield piece, piece.schedule, patience, wait > patience


def _rare(subject: Subject) -> Iterator[Finding]:
    recipe, total = subject.recipe, subject.clock.total_steps
    intervals: dict[str, Duration | None] = {
        "evaluate.every": recipe.evaluate.every,
        "checkpoint.keep_every": recipe.checkpoint.keep_every,
    }
    for key, every in intervals.items():
        if every is not None and subject.clock.steps(every) > total:
            saw = f"{key}={every}: {subject.clock.steps(every)} steps, the run has {total}"
            yield find(TIME_CODES["GU507"], saw, f"{key}=0.1dur")


def _idle_plateaus(subject: Subject) -> Iterator[Finding]:
    every = steps_between_evaluations(subject)
    for piece, schedule, patience, acts in plateaus(subject):
        if acts:
            continue
        wait = longest_wait(subject, piece.first, piece.until, piece.first + piece.warmup)
        saw = (
            f"{piece.key}.patience={schedule.patience}: {patience} steps; evaluate.every={subject.recipe.evaluate.every} leaves "
            f"{wait} steps between the first evaluation that counts and the last before the end of the schedule"
        )
        shorter = max(every, wait // 4)
        mend = f"{piece.key}.patience={shorter}step" if shorter < wait else TIME_CODES["GU508"].mend
        yield find(TIME_CODES["GU508"], saw, mend)


def _idle_phases(subject: Subject) -> Iterator[Finding]:
    clock, values = subject.clock, dict(vars(subject.live.base))
    numbered = sorted(enumerate(subject.recipe.phases), key=lambda phase: clock.exact_steps(phase[1].start))
    for place, (number, phase) in enumerate(numbered):
        replaced = _set_later_in(clock.steps(phase.start), [later for _, later in numbered[place + 1 :]], subject)
        before, idle = dict(values), True
        for key in phase.set.model_fields_set:
            # A schedule that is never in force has a code of its own.
            idle = idle and key != "schedule" and (key in replaced or getattr(phase.set, key) == before[key])
            if key != "schedule":
                values[key] = getattr(phase.set, key)
        if idle:
            keys = ", ".join(
                type(phase.set).model_fields[key].alias or key for key in sorted(phase.set.model_fields_set)
            )
            saw = f"phases.{number}, from {phase.start}: {keys} set to what is in force there, or replaced in the same step"
            yield find(TIME_CODES["GU509"], saw)


def _set_later_in(step: int, later: list[Phase], subject: Subject) -> set[str]:
    """The keys that later phases set in the same step."""
    return {key for phase in later if subject.clock.steps(phase.start) == step for key in phase.set.model_fields_set}
