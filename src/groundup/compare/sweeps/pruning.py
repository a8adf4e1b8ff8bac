"""Whether a run is stopped early. Optuna's pruners decide; this module makes what they look at fair.

The rule: a configuration is judged at a step by the mean over its seeds that have got that far, against the means of the other
configurations over the same seeds at the same step (the last evaluation up to it). So a good first seed is never compared with the
mean of three. If it loses, all its seeds stop: those that run at their next evaluation, those that wait at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groundup.basis.duration import Clock
from groundup.compare.sweeps.sweep_file import HyperbandPruning, MedianPruning, PruneSettings

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

Curve = Mapping[int, float]  # step -> value


@dataclass(frozen=True)
class Progress:
    """What a configuration has shown: a curve per seed; `finished`: every seed has come to its end."""

    number: int
    finished: bool
    curves: Mapping[int, Curve]

    def mean_at(self, step: int, seeds: Sequence[int]) -> float | None:
        """The mean over `seeds` at `step`; None if one of them has not got that far, or has no finite value there."""
        values = [value_at(self.curves.get(seed, {}), step) for seed in seeds]
        known = [value for value in values if value is not None and math.isfinite(value)]
        return sum(known) / len(known) if known and len(known) == len(values) else None


def value_at(curve: Curve, step: int) -> float | None:
    """The value of the last evaluation up to `step`; None if the run has not got to `step`, or was not evaluated before it."""
    before = [at for at in curve if at <= step]
    return curve[max(before)] if before and max(curve) >= step else None


def should_prune(
    rule: PruneSettings, progress: Sequence[Progress], number: int, seed: int, clock: Clock, *, maximize: bool
) -> bool:
    """Whether configuration `number` loses by what its run of `seed` has just reported. `clock`: of that run."""
    current = next(one for one in progress if one.number == number)
    steps = sorted(current.curves[seed])
    step = steps[-1]
    if not math.isfinite(current.curves[seed][step]):
        return False  # the loss watch of the run ends it, with a reason
    seeds = [one for one, curve in current.curves.items() if value_at(curve, step) is not None]
    others = [one for one in progress if one.number != number]
    start = max(1, clock.steps(rule.start))
    if isinstance(rule, MedianPruning):
        others = [one for one in others if one.finished]
    elif isinstance(rule, HyperbandPruning):
        brackets = 1 + max(0, math.floor(math.log(max(1.0, clock.total_steps / start), rule.reduction) + 1e-9))
        bracket = number % brackets
        others = [one for one in others if one.number % brackets == bracket]
        start *= rule.reduction**bracket
    own = {at: mean for at in steps if (mean := current.mean_at(at, seeds)) is not None}
    if step not in own:
        return False  # another seed has diverged there: nothing is known of the mean
    standings = [mean for one in others if (mean := one.mean_at(step, seeds)) is not None]
    means = _Means(steps, own, standings, maximize)
    if isinstance(rule, MedianPruning):
        return _below_median(rule, start, means)
    return _off_the_rung(rule.reduction, start, means)


@dataclass(frozen=True)
class _Means:
    """What is compared: `own` means of a configuration up to the last of its `steps`, and those of the `others` there."""

    steps: Sequence[int]
    own: Curve
    others: Sequence[float]
    maximize: bool


def _below_median(rule: MedianPruning, start: int, means: _Means) -> bool:
    from optuna.pruners import MedianPruner

    trials = [_trial({means.steps[-1]: mean}, finished=True) for mean in means.others]
    pruner = MedianPruner(n_startup_trials=rule.finished, n_warmup_steps=start)
    return _asked(pruner, trials, _trial(means.own), means.maximize)


def _off_the_rung(reduction: int, rung: int, means: _Means) -> bool:
    from optuna.pruners import SuccessiveHalvingPruner

    before, at = [0, *means.steps][-2:]
    while rung * reduction <= at:
        rung *= reduction
    if not before < rung <= at:
        return False  # no rung since the last evaluation
    trials = [_trial({}, rung=mean) for mean in means.others]
    pruner = SuccessiveHalvingPruner(min_resource=rung, reduction_factor=reduction)
    return _asked(pruner, trials, _trial({at: means.own[at]}), means.maximize)


def _trial(values: Curve, *, finished: bool = False, rung: float | None = None) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.COMPLETE if finished else TrialState.RUNNING,
        value=next(iter(values.values())) if finished else None,
        intermediate_values=dict(values),
        system_attrs={} if rung is None else {"completed_rung_0": rung},
    )


def _asked(pruner: "BasePruner", others: "list[FrozenTrial]", own: "FrozenTrial", maximize: bool) -> bool:
    """The pruner's answer about `own` in a study that holds nothing but what may be compared."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    study.add_trials([*others, own])
    return bool(pruner.prune(study, study.get_trials()[-1]))
