"""A configuration as one of Optuna's trials: planned beforehand, or opened again.

A trial that has ended cannot be changed. Where its configuration is to have further runs, a copy takes its place, which says in its
attribute `number` whose.
"""

from typing import TYPE_CHECKING, Any

from groundup.compare.sweeps.space import Point
from groundup.compare.sweeps.sweep_file import Sweep

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def number_of(trial: "FrozenTrial") -> int:
    """The number of the configuration, counted from 0."""
    return int(trial.user_attrs.get("number", trial.number))


def planned_trial(sweep: Sweep, point: Point) -> "FrozenTrial":
    """A trial for a configuration that is known beforehand."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    distributions: dict[str, Any] = {}
    for key in point:
        axis = sweep.axes[key]
        if axis.choice is not None:
            distributions[key] = CategoricalDistribution([label for label, _ in axis.options(key)])
        elif axis.whole:
            distributions[key] = IntDistribution(int(axis.low or 0), int(axis.high or 0), log=axis.log)
        else:
            distributions[key] = FloatDistribution(axis.low or 0.0, axis.high or 0.0, log=axis.log)
    return create_trial(
        state=TrialState.RUNNING, params=point, distributions=distributions, user_attrs={"point": point}
    )


def opened_again(trial: "FrozenTrial", changed: dict[str, Any]) -> "FrozenTrial":
    """The same configuration in a trial that has not ended. `changed`: what is different in its attributes."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**trial.user_attrs, **changed, "number": number_of(trial)},
    )
