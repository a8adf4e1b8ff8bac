"""Losses, parameter groups, optimizers, and schedules as pure functions of the step.

The learning rate lives in the schedule alone; optimizers hold multipliers of it. One update is
`apply_rates(optimizer, schedule.at(step, clock))`, then `optimizer.step()`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from groundup.optim.adamw import AdamWSettings
from groundup.optim.binary_cross_entropy import BinaryCrossEntropySettings, binary_loss_parts, binary_targets
from groundup.optim.groups import BaseOptimizerSettings, GroupScales, apply_rates, parameter_groups
from groundup.optim.losses import (
    BaseLossSettings,
    CrossEntropySettings,
    LossParts,
    balanced_weights,
    cross_entropy,
    loss_parts,
)
from groundup.optim.muon import Muon, MuonSettings
from groundup.optim.sam import SAMSettings, frozen_norm_statistics, uphill
from groundup.optim.schedules import SCHEDULES, LiveRates, Memory, Schedule, ScheduleSettings, curve
from groundup.optim.sgd import SGDSettings

OPTIMIZERS: dict[str, type[BaseOptimizerSettings]] = {"sgd": SGDSettings, "adamw": AdamWSettings, "muon": MuonSettings}
LOSSES: dict[str, type[BaseLossSettings]] = {
    "binary_cross_entropy": BinaryCrossEntropySettings,
    "cross_entropy": CrossEntropySettings,
}

OptimizerSettings = Annotated[SGDSettings | AdamWSettings | MuonSettings, Field(discriminator="name")]


def _cross_entropy_unless_named(values: Any) -> Any:
    """A loss without a name is the cross-entropy, so that `loss.label_smoothing=0.1` alone will do."""
    return values if not isinstance(values, Mapping) or "name" in values else {"name": "cross_entropy", **values}


LossSettings = Annotated[
    BinaryCrossEntropySettings | CrossEntropySettings,
    Field(discriminator="name"),
    BeforeValidator(_cross_entropy_unless_named),
]

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "BaseLossSettings",
    "BaseOptimizerSettings",
    "BinaryCrossEntropySettings",
    "CrossEntropySettings",
    "GroupScales",
    "LiveRates",
    "LossParts",
    "LossSettings",
    "Memory",
    "Muon",
    "MuonSettings",
    "OptimizerSettings",
    "SAMSettings",
    "Schedule",
    "ScheduleSettings",
    "apply_rates",
    "balanced_weights",
    "binary_loss_parts",
    "binary_targets",
    "cross_entropy",
    "curve",
    "frozen_norm_statistics",
    "loss_parts",
    "parameter_groups",
    "uphill",
]
