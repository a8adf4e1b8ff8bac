"""Losses, parameter groups, optimizers, and schedules as pure functions of the step.

The learning rate lives in the schedule alone; optimizers hold multipliers of it. One update is
`apply_rates(optimizer, schedule.at(step, clock))`, then `optimizer.step()`.
"""

from typing import Annotated

from pydantic import Field

from groundup.basis.settings import Settings
from groundup.optim.adamw import AdamWSettings
from groundup.optim.groups import BaseOptimizerSettings, GroupScales, apply_rates, parameter_groups
from groundup.optim.losses import CrossEntropySettings, balanced_weights, cross_entropy, loss_parts
from groundup.optim.muon import Muon, MuonSettings
from groundup.optim.sam import SAMSettings, frozen_norm_statistics, uphill
from groundup.optim.schedules import SCHEDULES, LiveRates, Memory, Schedule, ScheduleSettings, curve
from groundup.optim.sgd import SGDSettings

OPTIMIZERS: dict[str, type[BaseOptimizerSettings]] = {"sgd": SGDSettings, "adamw": AdamWSettings, "muon": MuonSettings}
LOSSES: dict[str, type[Settings]] = {"cross_entropy": CrossEntropySettings}

OptimizerSettings = Annotated[SGDSettings | AdamWSettings | MuonSettings, Field(discriminator="name")]
LossSettings = CrossEntropySettings  # with a second loss: a union with the discriminator `name`, as above

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "BaseOptimizerSettings",
    "CrossEntropySettings",
    "GroupScales",
    "LiveRates",
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
    "cross_entropy",
    "curve",
    "frozen_norm_statistics",
    "loss_parts",
    "parameter_groups",
    "uphill",
]
